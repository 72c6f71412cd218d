package edge

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/go-json-experiment/json/jsontext"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	appointmentv1 "waymark/proto/waymark/appointment/v1"
	pathwayv1 "waymark/proto/waymark/pathway/v1"
	personv1 "waymark/proto/waymark/person/v1"
	planv1 "waymark/proto/waymark/plan/v1"
	referralv1 "waymark/proto/waymark/referral/v1"
	"waymark/services/edge/fhir"
	"waymark/services/kit/es"
	"waymark/services/kit/fault"
	"waymark/services/kit/run"
)

// FHIRPath is where the FHIR server lives on its address.
const FHIRPath = "/fhir/R4"

// FHIROptions are the bounds of the FHIR server. Zero fields mean their defaults.
type FHIROptions struct {
	TLS      *tls.Config   // nil serves without TLS
	InFlight int           // requests at once; more are answered 429. Default 64
	Answer   time.Duration // to answer one. Default 9 s
	// Hidden are the sites and treatment functions that the NHS App is not shown.
	Hidden map[string]bool
}

// FHIR makes the part that answers FHIR R4 over HTTP on lis: read, vread,
// history, search, each also as of an earlier moment. Resources are made at the
// request of what the services say; nothing is kept here but an index.
func FHIR(deps run.Deps, lis net.Listener, opts FHIROptions) run.Part {
	s := newFHIRServer(deps, opts)
	server := &http.Server{
		Handler: s, TLSConfig: opts.TLS,
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 15 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 32 << 10, ErrorLog: slog.NewLogLogger(deps.Slog.Handler(), slog.LevelDebug),
	}
	served := make(chan error, 1)
	serve := sync.OnceFunc(func() { // Run is started again when the log fails; requests are answered all the while
		go func() {
			if opts.TLS != nil {
				served <- server.ServeTLS(lis, "", "")
			} else {
				served <- server.Serve(lis)
			}
		}()
	})
	return run.Part{
		Name: "fhir",
		Run: func(ctx context.Context) error {
			serve()
			followed := make(chan error, 1)
			following, end := context.WithCancel(ctx)
			defer end()
			go func() { followed <- s.records.Run(following) }()
			var err error
			select {
			case err = <-followed:
			case err = <-served:
				served <- err
				end()
				<-followed
			}
			if ctx.Err() == nil {
				return err
			}
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.answer)
			defer cancel()
			server.Shutdown(last) // what is in hand is still answered
			return ctx.Err()
		},
		Close: func() error {
			err := server.Close()
			if errors.Is(err, net.ErrClosed) {
				err = nil
			}
			return errors.Join(err, s.records.close())
		},
	}
}

// fhirServer answers FHIR requests.
type fhirServer struct {
	log          es.Log
	records      *records
	kinds        []*fhirKind
	persons      personv1.PersonServiceClient
	views        pathwayv1.PathwayQueryServiceClient
	plans        planv1.PlanServiceClient
	referrals    referralv1.ReferralServiceClient
	appointments appointmentv1.AppointmentServiceClient
	sessions     appointmentv1.SessionServiceClient
	clock        func() time.Time
	slog         *slog.Logger
	answer       time.Duration
	busy         chan struct{} // a token for each request in hand
	messages     *barsHTTP
	feedPace     perSecond
	hide         map[string]bool // site:ODS and tfc:CODE that the NHS App does not see

	mu       sync.Mutex // guards concerns
	concerns map[string]string
}

func newFHIRServer(deps run.Deps, opts FHIROptions) *fhirServer {
	appointment, dir := deps.Dial("appointment"), deps.Dir
	if dir != "" {
		dir = filepath.Join(dir, "fhir")
	}
	return &fhirServer{
		log: deps.Log, records: newRecords(deps.Log, deps.Slog, dir, vfs.Default), kinds: fhirKinds(), clock: deps.Clock, slog: deps.Slog,
		persons: personv1.NewPersonServiceClient(deps.Dial("person")), views: pathwayv1.NewPathwayQueryServiceClient(deps.Dial("pathway")),
		plans: planv1.NewPlanServiceClient(deps.Dial("plan")), referrals: referralv1.NewReferralServiceClient(deps.Dial("referral")),
		appointments: appointmentv1.NewAppointmentServiceClient(appointment), sessions: appointmentv1.NewSessionServiceClient(appointment),
		answer: cmp.Or(opts.Answer, 9*time.Second), busy: make(chan struct{}, cmp.Or(opts.InFlight, 64)),
		messages: newBarsHTTP(deps), hide: opts.Hidden,
	}
}

func (s *fhirServer) kind(name string) *fhirKind {
	for _, k := range s.kinds {
		if k.name == name {
			return k
		}
	}
	return nil
}

// concern is the label of a concern in the catalogue, "" when that cannot be asked.
func (s *fhirServer) concern(ctx context.Context, code string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.concerns == nil {
		reply, err := s.plans.ListConcernCodes(ctx, &planv1.ListConcernCodesRequest{})
		if err != nil {
			return ""
		}
		s.concerns = map[string]string{}
		for _, c := range reply.Codes {
			s.concerns[c.Code] = c.Label
		}
	}
	return s.concerns[code]
}

// refusal is an answer that is an error: its OperationOutcome and HTTP status.
type refusal struct {
	status           int
	code, expression string // of the value set issue-type; the element or parameter
	text             string
	retryAfter       time.Duration
}

func (r *refusal) Error() string { return r.text }

func deny(status int, code, expression, text string) *refusal {
	return &refusal{status: status, code: code, expression: expression, text: text}
}

// refused turns what a service answered into a refusal.
func refused(err error) *refusal {
	var r *refusal
	if errors.As(err, &r) {
		return r
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return deny(http.StatusGatewayTimeout, "timeout", "", "not answered in time: ask again, or for less")
	}
	st, _ := status.FromError(err)
	text := cmp.Or(fault.CodeOf(err), "call.failed") + ": " + st.Message()
	switch st.Code() {
	case codes.NotFound:
		return deny(http.StatusNotFound, "not-found", "", text)
	case codes.InvalidArgument, codes.OutOfRange:
		return deny(http.StatusBadRequest, "invalid", "", text)
	case codes.FailedPrecondition, codes.AlreadyExists, codes.Aborted:
		return deny(http.StatusConflict, "conflict", "", text)
	case codes.PermissionDenied:
		return deny(http.StatusForbidden, "forbidden", "", text)
	case codes.ResourceExhausted:
		return &refusal{http.StatusTooManyRequests, "throttled", "", text, time.Second}
	case codes.Unavailable:
		return &refusal{http.StatusServiceUnavailable, "transient", "", text, 2 * time.Second}
	case codes.DeadlineExceeded:
		return deny(http.StatusGatewayTimeout, "timeout", "", text)
	}
	return deny(http.StatusInternalServerError, "exception", "", "a fault of ours; the log has it")
}

// reply is an answer.
type reply struct {
	status   int
	resource fhir.Resource
}

// fhirRequest is a request after its path was split.
type fhirRequest struct {
	*http.Request
	base   string // absolute URL of the server
	params url.Values
	strict bool // Prefer: handling, strict unless it says lenient
}

// ServeHTTP answers one request.
func (s *fhirServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if path, ok := strings.CutPrefix(r.URL.Path, FHIRPath+"/"); ok && s.messages.serves(path) {
		s.messages.ServeHTTP(w, r)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), s.answer)
	defer cancel()
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	for _, name := range []string{"X-Request-Id", "X-Correlation-Id"} {
		if id := r.Header.Get(name); id != "" && len(id) <= 200 {
			w.Header().Set(name, id)
		}
	}
	q := &fhirRequest{Request: r.WithContext(ctx), base: baseOf(r), strict: !strings.Contains(r.Header.Get("Prefer"), "handling=lenient")}
	var out *reply
	var err error
	select {
	case s.busy <- struct{}{}:
		defer func() { <-s.busy }()
		out, err = s.answerTo(q)
	default:
		err = &refusal{http.StatusTooManyRequests, "throttled", "", "too many requests at once: ask again", time.Second}
	}
	if err != nil {
		no := refused(err)
		if no.status == http.StatusInternalServerError {
			s.slog.ErrorContext(ctx, "a FHIR request failed", "event.name", "edge.fhir.failed", "error", err)
		}
		if no.retryAfter > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(int(no.retryAfter.Seconds())))
		}
		if no.status == http.StatusMethodNotAllowed {
			w.Header().Set("Allow", map[bool]string{true: "POST", false: "GET, HEAD"}[strings.HasSuffix(r.URL.Path, feedOperation)])
		}
		issue := fhir.Issue{Severity: "error", Code: no.code, Expression: no.expression, Text: no.text}
		out = &reply{no.status, fhir.Issues{issue}.Outcome()}
	}
	s.write(w, q, out)
}

// baseOf is the absolute URL of the server, as the caller named it.
func baseOf(r *http.Request) string {
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	return scheme + "://" + r.Host + FHIRPath
}

func (s *fhirServer) write(w http.ResponseWriter, q *fhirRequest, out *reply) {
	h := w.Header()
	if meta := metaOf(out.resource); meta != nil && out.status == http.StatusOK {
		if meta.VersionId != "" {
			etag := `W/"` + meta.VersionId + `"`
			h.Set("ETag", etag)
			if matches(q.Header.Get("If-None-Match"), etag) {
				w.WriteHeader(http.StatusNotModified)
				return
			}
		}
		if t, err := time.Parse(time.RFC3339Nano, meta.LastUpdated); err == nil {
			h.Set("Last-Modified", t.UTC().Format(http.TimeFormat))
		}
	}
	body, err := fhir.Encode(out.resource)
	if err != nil {
		s.slog.ErrorContext(q.Context(), "a FHIR resource could not be written", "event.name", "edge.fhir.unwritable", "error", err)
		out.status, body = http.StatusInternalServerError, []byte(`{"resourceType":"OperationOutcome","issue":[{"severity":"error","code":"exception"}]}`)
	}
	if q.params.Get("_pretty") == "true" {
		v := jsontext.Value(body)
		if v.Indent(jsontext.WithIndent("  ")) == nil {
			body = append(v, '\n')
		}
	}
	h.Set("Content-Type", "application/fhir+json; fhirVersion=4.0; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(out.status)
	if q.Method != http.MethodHead {
		w.Write(body)
	}
}

func metaOf(r fhir.Resource) *fhir.Meta {
	if r == nil {
		return nil
	}
	return fhir.MetaOf(r)
}

func matches(header, etag string) bool {
	for part := range strings.SplitSeq(header, ",") {
		if part = strings.TrimSpace(part); part == "*" || strings.TrimPrefix(part, "W/") == strings.TrimPrefix(etag, "W/") {
			return true
		}
	}
	return false
}

// answerTo finds what a request asks for.
func (s *fhirServer) answerTo(q *fhirRequest) (*reply, error) {
	path, ok := strings.CutPrefix(q.URL.Path, FHIRPath+"/")
	if !ok {
		return nil, deny(http.StatusNotFound, "not-found", "", "the FHIR server is at "+FHIRPath)
	}
	var err error
	if q.params, err = url.ParseQuery(q.URL.RawQuery); err != nil {
		return nil, deny(http.StatusBadRequest, "invalid", "", "the query of the URL cannot be read")
	}
	if err := acceptable(q); err != nil {
		return nil, err
	}
	if path == feedOperation {
		return s.feed(q)
	}
	parts := strings.Split(strings.TrimSuffix(path, "/"), "/")
	if q.Method == http.MethodPost && len(parts) == 2 && parts[1] == "_search" {
		if err := form(q); err != nil {
			return nil, err
		}
	} else if q.Method != http.MethodGet && q.Method != http.MethodHead {
		return nil, deny(http.StatusMethodNotAllowed, "not-supported", "", "resources are read here; what happens is recorded by the commands of the services")
	}
	if len(parts) == 1 && parts[0] == "metadata" {
		if err := q.only(); err != nil {
			return nil, err
		}
		return &reply{http.StatusOK, s.capability(q.base)}, nil
	}
	k := s.kind(parts[0])
	if k == nil {
		return nil, deny(http.StatusNotFound, "not-supported", "", "this type is not served: "+FHIRPath+"/metadata lists those that are")
	}
	// Whatever was acknowledged before this request is in its answer.
	head, err := s.log.Head(q.Context())
	if err != nil {
		return nil, err
	}
	if err := s.records.Wait(q.Context(), head); err != nil {
		return nil, err
	}
	switch {
	case len(parts) == 1 || len(parts) == 2 && parts[1] == "_search":
		return s.search(q, k)
	case len(parts) == 2:
		return s.read(q, k, parts[1])
	case len(parts) == 3 && parts[2] == "_history":
		return s.historyOf(q, k, parts[1])
	case len(parts) == 4 && parts[2] == "_history":
		return s.vread(q, k, parts[1], parts[3])
	case len(parts) == 3 && parts[2] == "$document" && k.name == "Composition":
		return s.read(q, s.kind("Bundle"), parts[1])
	}
	return nil, deny(http.StatusNotFound, "not-supported", "", "there is nothing of this name")
}

// acceptable refuses a format other than JSON.
func acceptable(q *fhirRequest) error {
	no := deny(http.StatusNotAcceptable, "not-supported", "", "the format is application/fhir+json, version 4.0")
	if f := q.params.Get("_format"); f != "" {
		if !jsonType(strings.ReplaceAll(f, " ", "+")) {
			no.expression = "_format"
			return no
		}
		return nil
	}
	accept := strings.Join(q.Header.Values("Accept"), ",")
	if accept == "" {
		return nil
	}
	for part := range strings.SplitSeq(accept, ",") {
		if jsonType(strings.TrimSpace(part)) {
			return nil
		}
	}
	return no
}

func jsonType(text string) bool {
	t, params, err := mime.ParseMediaType(text)
	if err != nil {
		return false
	}
	if v := params["fhirversion"]; v != "" && v != "4.0" {
		return false
	}
	switch t {
	case "json", "application/json", "application/fhir+json", "text/json", "*/*", "application/*":
		return true
	}
	return false
}

// maxForm bounds the body of a search.
const maxForm = 64 << 10

// form adds the parameters in the body of a POST to _search: an NHS number in a
// URL ends up in logs of others.
func form(q *fhirRequest) error {
	if t, _, _ := mime.ParseMediaType(q.Header.Get("Content-Type")); t != "application/x-www-form-urlencoded" {
		return deny(http.StatusUnsupportedMediaType, "not-supported", "", "a search is sent as application/x-www-form-urlencoded")
	}
	var body bytes.Buffer
	if _, err := body.ReadFrom(http.MaxBytesReader(nil, q.Body, maxForm)); err != nil {
		return deny(http.StatusRequestEntityTooLarge, "too-long", "", "a search has at most 64 KiB")
	}
	more, err := url.ParseQuery(body.String())
	if err != nil {
		return deny(http.StatusBadRequest, "invalid", "", "the body cannot be read as a form")
	}
	for name, values := range more {
		q.params[name] = append(q.params[name], values...)
	}
	return nil
}

// only refuses parameters other than the named ones and those that any request may have.
func (q *fhirRequest) only(names ...string) error {
	for name := range q.params {
		if !always(name) && !contains(names, name) {
			if q.strict {
				return unknownParam(name, names)
			}
			delete(q.params, name)
		}
	}
	return nil
}

func always(name string) bool { return name == "_format" || name == "_pretty" }

func contains(names []string, name string) bool {
	for _, n := range names {
		if n == name {
			return true
		}
	}
	return false
}

func unknownParam(name string, known []string) error {
	if len(name) > 64 || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' }) {
		name = ""
	}
	return deny(http.StatusBadRequest, "not-supported", name, "this parameter is not supported here and would change the answer; there are "+
		strings.Join(append(known, "_format", "_pretty"), ", ")+". Prefer: handling=lenient ignores others")
}

// moment reads _as-of.
func (q *fhirRequest) moment() (m asOf, err error) {
	text := q.params.Get("_as-of")
	if text == "" {
		return m, nil
	}
	if n, err := strconv.ParseUint(text, 10, 63); err == nil && n > 0 {
		return asOf{position: es.Position(n)}, nil
	}
	// In a URL a + that was not escaped has become a space.
	if t, err := time.Parse(time.RFC3339Nano, strings.ReplaceAll(text, " ", "+")); err == nil {
		return asOf{instant: t}, nil
	}
	return m, deny(http.StatusBadRequest, "value", "_as-of", "must be a position of the log (a version id), or an instant with offset: 2026-02-03T14:05:00Z")
}

// find returns the resource of a kind and id at a moment.
func (s *fhirServer) find(q *fhirRequest, k *fhirKind, id string, m asOf) (fhir.Resource, string, error) {
	none := deny(http.StatusNotFound, "not-found", "", "there is no "+k.name+" with this id")
	if !m.isNow() {
		none.text += " at that moment"
	}
	key, _, _ := strings.Cut(id, ".") // what is derived has the id of what it is derived from, and a word
	owner, err := s.records.ownerOf(key)
	if err != nil {
		return nil, "", err
	}
	if owner == "" {
		return nil, "", none
	}
	made, err := s.make(q.Context(), k, owner, q.base, m)
	if err != nil {
		return nil, "", err
	}
	for _, r := range made {
		if fhir.ID(r) == id {
			return r, owner, nil
		}
	}
	return nil, owner, none
}

func (s *fhirServer) read(q *fhirRequest, k *fhirKind, id string) (*reply, error) {
	if err := q.only("_as-of"); err != nil {
		return nil, err
	}
	m, err := q.moment()
	if err != nil {
		return nil, err
	}
	r, _, err := s.find(q, k, id, m)
	return &reply{http.StatusOK, r}, err
}

// vread reads the version of a resource. A version is a position at which the
// streams that it is made from have an event.
func (s *fhirServer) vread(q *fhirRequest, k *fhirKind, id, vid string) (*reply, error) {
	if err := q.only(); err != nil {
		return nil, err
	}
	none := deny(http.StatusNotFound, "not-found", "", "there is no such version")
	n, err := strconv.ParseUint(vid, 10, 63)
	if err != nil || n == 0 {
		return nil, none
	}
	then := asOf{position: es.Position(n)}
	if k.name == "Provenance" {
		then = asOf{} // it never changes, and one of the patient may be older than the pathway
	}
	r, _, err := s.find(q, k, id, then)
	if err != nil {
		return nil, err
	}
	if fhir.MetaOf(r).VersionId != vid {
		return nil, none
	}
	return &reply{http.StatusOK, r}, nil
}

// maxVersions bounds how many versions one history looks at.
const maxVersions = 2000

// historyOf lists the versions in which a resource began to say something else, and
// the newest one, newest first.
func (s *fhirServer) historyOf(q *fhirRequest, k *fhirKind, id string) (*reply, error) {
	if err := q.only("_count", "_since", "_page"); err != nil {
		return nil, err
	}
	count, after, err := q.page()
	if err != nil {
		return nil, err
	}
	var since time.Time
	if text := q.params.Get("_since"); text != "" {
		if since, err = time.Parse(time.RFC3339Nano, strings.ReplaceAll(text, " ", "+")); err != nil {
			return nil, deny(http.StatusBadRequest, "value", "_since", "must be an instant with offset: 2026-02-03T14:05:00Z")
		}
	}
	key, _, _ := strings.Cut(id, ".")
	owner, err := s.records.ownerOf(key)
	if err != nil {
		return nil, err
	}
	stamps, err := s.records.history(k.streams, owner, !k.each)
	if err != nil {
		return nil, err
	}
	if k.each {
		now, _, err := s.find(q, k, id, asOf{})
		if err != nil {
			return nil, err
		}
		stamps = slices.DeleteFunc(stamps, func(at stamp) bool { return version(at.position) != fhir.MetaOf(now).VersionId })
	}
	if len(stamps) > maxVersions {
		return nil, deny(http.StatusUnprocessableEntity, "too-costly", "", "this resource has too many versions for one history: read single ones, or use _as-of")
	}
	type one struct {
		r     fhir.Resource
		first bool
	}
	var versions []one
	var before []byte
	for i, at := range stamps {
		made, err := s.make(q.Context(), k, owner, q.base, asOf{position: at.position})
		if err != nil {
			return nil, err
		}
		var r fhir.Resource
		for _, m := range made {
			if fhir.ID(m) == id {
				r = m
			}
		}
		if r == nil {
			continue
		}
		meta := fhir.MetaOf(r)
		fhir.SetHead(r, id, nil)
		body, err := fhir.Encode(r)
		if err != nil {
			return nil, err
		}
		fhir.SetHead(r, id, meta)
		if !bytes.Equal(body, before) || i == len(stamps)-1 {
			if n := len(versions); n == 0 || fhir.MetaOf(versions[n-1].r).VersionId != meta.VersionId {
				versions = append(versions, one{r, before == nil})
			}
		}
		before = body
	}
	if versions == nil {
		return nil, deny(http.StatusNotFound, "not-found", "", "there is no "+k.name+" with this id")
	}
	bundle := &fhir.Bundle{Type: "history", Total: new(int32(0))}
	for n := len(versions) - 1; n >= 0; n-- {
		v := versions[n]
		meta := fhir.MetaOf(v.r)
		updated, _ := time.Parse(time.RFC3339Nano, meta.LastUpdated)
		if updated.Before(since) {
			continue
		}
		*bundle.Total++
		if int(*bundle.Total) <= after || len(bundle.Entry) == count {
			continue
		}
		method, code := "PUT", "200"
		if v.first {
			method, code = "POST", "201"
		}
		bundle.Entry = append(bundle.Entry, fhir.BundleEntry{
			FullUrl: q.base + "/" + k.name + "/" + id, Resource: v.r,
			Request:  &fhir.BundleEntryRequest{Method: method, URL: k.name + "/" + id},
			Response: &fhir.BundleEntryResponse{Status: code, Etag: `W/"` + meta.VersionId + `"`, LastModified: meta.LastUpdated},
		})
	}
	q.links(bundle, k.name+"/"+id+"/_history", after+len(bundle.Entry), after+len(bundle.Entry) < int(*bundle.Total))
	return &reply{http.StatusOK, bundle}, nil
}

// Sizes of a page.
const (
	defaultPage = 50
	maxPage     = 500
)

// page reads _count, and how many were given on the pages before.
func (q *fhirRequest) page() (count, after int, err error) {
	count = defaultPage
	if text := q.params.Get("_count"); text != "" {
		if count, err = strconv.Atoi(text); err != nil || count < 1 || count > maxPage {
			return 0, 0, deny(http.StatusBadRequest, "value", "_count", "must be from 1 to "+strconv.Itoa(maxPage))
		}
	}
	if text := q.params.Get("_page"); text != "" {
		if after, err = strconv.Atoi(text); err != nil || after < 0 {
			return 0, 0, deny(http.StatusBadRequest, "value", "_page", "must be that of a link of a Bundle from here")
		}
	}
	return count, after, nil
}

// links adds the links of a page.
func (q *fhirRequest) links(b *fhir.Bundle, path string, next int, more bool) {
	link := func(relation string, page int) {
		params := url.Values{}
		for name, values := range q.params {
			params[name] = values
		}
		if page > 0 {
			params.Set("_page", strconv.Itoa(page))
		}
		u := q.base + "/" + path
		if len(params) > 0 {
			u += "?" + params.Encode()
		}
		b.Link = append(b.Link, fhir.BundleLink{Relation: relation, URL: u})
	}
	link("self", 0)
	if more {
		link("next", next)
	}
}

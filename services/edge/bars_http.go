package edge

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "waymark/proto/waymark/edge/v1"
	"waymark/services/kit/fault"
	"waymark/services/kit/run"
)

// barsHTTP takes BaRS messages over HTTP, and gives senders the answers to theirs.
// It stands beside the resources of the FHIR server.
//
//	POST $process-message    one message Bundle; answered once its outcome is durable
//	GET  $messages           the messages that answer an organisation's referrals
//	GET  MessageDefinition   which messages are taken
type barsHTTP struct {
	edge pb.EdgeServiceClient
	slog *slog.Logger
	// answer is how long a message may take: BaRS gives its sender 408 after 5 s.
	answer time.Duration
	busy   chan struct{} // a token for each message in hand
}

func newBarsHTTP(deps run.Deps) *barsHTTP {
	return &barsHTTP{edge: pb.NewEdgeServiceClient(deps.Dial("edge")), slog: deps.Slog, answer: 4500 * time.Millisecond, busy: make(chan struct{}, 32)}
}

// serves reports whether a path below the base is one of BaRS messaging.
func (b *barsHTTP) serves(path string) bool {
	return path == "$process-message" || path == "$messages" || path == "MessageDefinition"
}

// httpProblem is a request that is refused before there is a message.
type httpProblem struct {
	problem
	element, text string
	retry         int // seconds
}

func (p *httpProblem) Error() string { return p.text }

// sendFault is a fault of the sender's request, by its header.
func sendFault(status int, issue, header, text string) *httpProblem {
	name := map[int]string{http.StatusBadRequest: "SEND_BAD_REQUEST", http.StatusNotAcceptable: "SEND_NOT_ACCEPTABLE", http.StatusTooManyRequests: "SEND_TOO_MANY_REQUESTS",
		http.StatusUnsupportedMediaType: "REC_UNSUPPORTED_MEDIA_TYPE", http.StatusMethodNotAllowed: "REC_METHOD_NOT_ALLOWED", http.StatusRequestEntityTooLarge: "REC_UNPROCESSABLE_ENTITY"}[status]
	if header != "" {
		header = "http." + header // as R4 names a header in OperationOutcome.issue.expression
	}
	return &httpProblem{problem: problem{status, issue, name}, element: header, text: text}
}

// ServeHTTP answers one request.
func (b *barsHTTP) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "application/fhir+json; fhirVersion=4.0; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	for _, name := range []string{"X-Request-Id", "X-Correlation-Id"} {
		if v := r.Header.Get(name); correlation.MatchString(v) {
			h.Set(name, v)
		}
	}
	ctx, cancel := context.WithTimeout(r.Context(), b.answer)
	defer cancel()
	code, body, err := b.do(ctx, w, r)
	if err != nil {
		p := b.problem(ctx, err)
		if p.retry > 0 {
			h.Set("Retry-After", strconv.Itoa(p.retry))
		}
		if p.status == http.StatusMethodNotAllowed {
			h.Set("Allow", map[bool]string{true: "POST", false: "GET, HEAD"}[strings.HasSuffix(r.URL.Path, "$process-message")])
		}
		code, body = p.status, operationOutcome("", issue("error", p.problem, "", p.element, p.text))
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(code)
	if r.Method != http.MethodHead {
		w.Write(body)
	}
}

var correlation = regexp.MustCompile(`^[A-Za-z0-9._:-]{1,100}$`)

func (b *barsHTTP) do(ctx context.Context, w http.ResponseWriter, r *http.Request) (int, []byte, error) {
	select {
	case b.busy <- struct{}{}:
		defer func() { <-b.busy }()
	default:
		p := sendFault(http.StatusTooManyRequests, "throttled", "", "too many messages at once: send it again")
		p.retry = 1
		return 0, nil, p
	}
	if err := acceptsFHIR(r); err != nil {
		return 0, nil, err
	}
	switch {
	case strings.HasSuffix(r.URL.Path, "/$process-message"):
		if r.Method != http.MethodPost {
			return 0, nil, sendFault(http.StatusMethodNotAllowed, "not-supported", "", "a message is sent with POST")
		}
		return b.process(ctx, w, r)
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		return 0, nil, sendFault(http.StatusMethodNotAllowed, "not-supported", "", "this is read with GET")
	case strings.HasSuffix(r.URL.Path, "/$messages"):
		return b.messages(ctx, r)
	}
	return b.definitions(r)
}

// problem turns what a service answered into one of BaRS.
func (b *barsHTTP) problem(ctx context.Context, err error) *httpProblem {
	var p *httpProblem
	if errors.As(err, &p) {
		return p
	}
	st, _ := status.FromError(err)
	code := st.Code()
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(ctx.Err(), context.DeadlineExceeded) {
		code = codes.DeadlineExceeded
	}
	switch code {
	case codes.DeadlineExceeded, codes.Canceled:
		return &httpProblem{problem{http.StatusRequestTimeout, "timeout", "REC_TIMEOUT"}, "", "there is no outcome yet: send the same message again, it is taken once", 0}
	case codes.Unavailable, codes.Aborted:
		return &httpProblem{problem{http.StatusServiceUnavailable, "transient", "REC_UNAVAILABLE"}, "", "a part is down or busy: send the same message again, it is taken once", 2}
	case codes.ResourceExhausted:
		return &httpProblem{problem{http.StatusTooManyRequests, "throttled", "SEND_TOO_MANY_REQUESTS"}, "", "too much at once: send the same message again", 1}
	case codes.InvalidArgument:
		return &httpProblem{problem{http.StatusBadRequest, "invalid", "REC_BAD_REQUEST"}, "", cmp.Or(fault.CodeOf(err), "request.invalid") + ": " + st.Message(), 0}
	}
	b.slog.ErrorContext(ctx, "a BaRS request failed", "event.name", "edge.bars.failed", "error", err)
	return &httpProblem{problem{http.StatusInternalServerError, "exception", "REC_SERVER_ERROR"}, "", "a fault of ours; the log has it", 0}
}

// acceptsFHIR refuses a caller that wants another format or version.
func acceptsFHIR(r *http.Request) error {
	accept := strings.Join(r.Header.Values("Accept"), ",")
	if accept == "" {
		return nil
	}
	for part := range strings.SplitSeq(accept, ",") {
		t, params, err := mime.ParseMediaType(strings.TrimSpace(part))
		if err != nil || !fhirMedia[t] && t != "*/*" && t != "application/*" {
			continue
		}
		if v := params["version"]; v == "" || barsVersions.MatchString(v) || v == "1" || strings.HasPrefix(v, "1.") {
			return nil
		}
	}
	return sendFault(http.StatusNotAcceptable, "processing", "Accept", "application/fhir+json, version 1.x.y of BaRS, is what can be answered")
}

var fhirMedia = map[string]bool{"application/fhir+json": true, "application/json": true}

// maxMessage bounds the body of a message.
const maxMessage = 4 << 20

// jsonHeader reads a header that holds a FHIR resource, or another JSON object, in base64.
func jsonHeader(r *http.Request, name string) (node, error) {
	text := r.Header.Get(name)
	if text == "" {
		return node{}, nil
	}
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		if raw, err = base64.RawURLEncoding.DecodeString(strings.TrimRight(text, "=")); err != nil {
			return node{}, sendFault(http.StatusBadRequest, "value", name, "the header is not base64")
		}
	}
	var v map[string]any
	if err := json.Unmarshal(raw, &v); err != nil {
		return node{}, sendFault(http.StatusBadRequest, "structure", name, "the header is base64 of something that is no JSON object")
	}
	return node{path: "http." + name, v: v}, nil
}

// process takes one message.
func (b *barsHTTP) process(ctx context.Context, w http.ResponseWriter, r *http.Request) (int, []byte, error) {
	for _, name := range []string{"X-Request-Id", "X-Correlation-Id"} {
		if v := r.Header.Get(name); v == "" {
			return 0, nil, sendFault(http.StatusBadRequest, "required", name, "the header is missing")
		} else if !correlation.MatchString(v) {
			return 0, nil, sendFault(http.StatusBadRequest, "value", name, "the header is a UUID, or another id of at most 100 letters, digits and ._:-")
		}
	}
	target, err := jsonHeader(r, "NHSD-Target-Identifier")
	if err != nil {
		return 0, nil, err
	}
	if target.v == nil {
		return 0, nil, sendFault(http.StatusBadRequest, "required", "NHSD-Target-Identifier", "the header is missing")
	}
	if target.str("value") == "" || target.str("system") == "" {
		return 0, nil, sendFault(http.StatusBadRequest, "structure", "NHSD-Target-Identifier", "the header is an Identifier: system and value")
	}
	sender, err := jsonHeader(r, "NHSD-End-User-Organisation")
	if err != nil {
		return 0, nil, err
	}
	for _, name := range []string{"NHSD-Requesting-Practitioner", "NHSD-Requesting-Software"} {
		if _, err := jsonHeader(r, name); err != nil {
			return 0, nil, err
		}
	}
	t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || !fhirMedia[t] {
		return 0, nil, sendFault(http.StatusUnsupportedMediaType, "not-supported", "Content-Type", "a message is sent as application/fhir+json")
	}
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxMessage))
	if err != nil {
		var large *http.MaxBytesError
		if errors.As(err, &large) {
			return 0, nil, sendFault(http.StatusRequestEntityTooLarge, "too-long", "", "a message has at most 4 MiB")
		}
		return 0, nil, sendFault(http.StatusBadRequest, "structure", "", "the body ended too early")
	}
	organisation := odsOf(sender.all("identifier"))
	if organisation == "" { // then the message itself says it
		d := readDocument(raw, "UNKNOWN", "bars")
		if header, ok := d.message(); ok {
			organisation = d.ods(header.get("sender"))
		}
	}
	if organisation == "" {
		return 0, nil, sendFault(http.StatusBadRequest, "required", "NHSD-End-User-Organisation", "who sends the message is missing: an Organization with its ODS code, in this header or in MessageHeader.sender")
	}
	req := &pb.TakeDocumentRequest{Raw: raw, Organisation: organisation, Source: "bars"}
	if len(raw) >= packFrom {
		if req.Raw, req.Gzip, err = pack(raw); err != nil {
			return 0, nil, err
		}
	}
	reply, err := b.edge.TakeDocument(ctx, req)
	if err != nil {
		return 0, nil, err
	}
	return int(reply.Status), reply.Answer, nil
}

// messages gives an organisation the answers to its referrals, as a searchset of
// message Bundles; _since is the position after which to go on.
func (b *barsHTTP) messages(ctx context.Context, r *http.Request) (int, []byte, error) {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return 0, nil, sendFault(http.StatusBadRequest, "invalid", "", "the query cannot be read")
	}
	for name := range q {
		if name != "organisation" && name != "_since" && name != "_count" {
			return 0, nil, sendFault(http.StatusBadRequest, "not-supported", "", "the parameters are organisation, _since and _count")
		}
	}
	organisation := q.Get("organisation")
	if !odsCode.MatchString(organisation) {
		return 0, nil, &httpProblem{problem{http.StatusBadRequest, "required", "SEND_BAD_REQUEST"}, "organisation", "the ODS code of who sent the referrals is needed", 0}
	}
	after, err := strconv.ParseUint(cmp.Or(q.Get("_since"), "0"), 10, 64)
	if err != nil {
		return 0, nil, &httpProblem{problem{http.StatusBadRequest, "value", "SEND_BAD_REQUEST"}, "_since", "the value of a next link, or nothing", 0}
	}
	count, err := strconv.Atoi(cmp.Or(q.Get("_count"), "50"))
	if err != nil || count < 1 || count > 200 {
		return 0, nil, &httpProblem{problem{http.StatusBadRequest, "value", "SEND_BAD_REQUEST"}, "_count", "1 to 200", 0}
	}
	reply, err := b.edge.ListAnswers(ctx, &pb.ListAnswersRequest{Organisation: organisation, After: after, PageSize: int32(count)})
	if err != nil {
		return 0, nil, err
	}
	entries := []any{}
	for _, a := range reply.Answers {
		entries = append(entries, map[string]any{"fullUrl": "urn:uuid:" + idOf(a.Bundle), "resource": json.RawMessage(a.Bundle), "search": map[string]any{"mode": "match"}})
		after = a.Position
	}
	next := url.Values{"organisation": {organisation}, "_since": {strconv.FormatUint(after, 10)}, "_count": {strconv.Itoa(count)}}
	base := baseURL(r)
	out := map[string]any{"resourceType": "Bundle", "type": "searchset", "link": []any{
		map[string]any{"relation": "self", "url": base + "?" + q.Encode()},
		map[string]any{"relation": "next", "url": base + "?" + next.Encode()}, // ask again later: what comes then is new
	}}
	if len(entries) > 0 {
		out["entry"] = entries
	}
	body, err := json.Marshal(out)
	return http.StatusOK, body, err
}

func idOf(bundle []byte) string {
	var head struct{ ID string }
	_ = json.Unmarshal(bundle, &head) // it was made here
	return head.ID
}

func baseURL(r *http.Request) string {
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	return scheme + "://" + r.Host + r.URL.Path
}

// definitions lists the messages that are taken, as MessageDefinitions.
func (b *barsHTTP) definitions(r *http.Request) (int, []byte, error) {
	base := baseURL(r)
	entries := []any{}
	for _, event := range []string{"booking-request", "booking-response", "servicerequest-request", "servicerequest-response"} {
		url := "https://fhir.nhs.uk/MessageDefinition/bars-message-" + event
		about := func(kind string, most string) map[string]any {
			return map[string]any{"code": kind, "min": 1, "max": most}
		}
		d := map[string]any{"resourceType": "MessageDefinition", "id": event, "url": url, "name": "BARS" + strings.ReplaceAll(event, "-", ""), "status": "active", "date": "2026-01-01",
			"eventCoding": map[string]any{"system": barsEventSystem, "code": event}, "category": "consequence",
			"focus": []any{about("MessageHeader", "1"), about(barsEvents[event].focus, "1"), about("Patient", "1")}}
		if to := barsEvents[event].answer; to != "" {
			d["responseRequired"] = "always"
			d["allowedResponse"] = []any{map[string]any{"message": "https://fhir.nhs.uk/MessageDefinition/bars-message-" + to}}
		}
		entries = append(entries, map[string]any{"fullUrl": base + "/" + event, "resource": d, "search": map[string]any{"mode": "match"}})
	}
	body, err := json.Marshal(map[string]any{"resourceType": "Bundle", "type": "searchset", "total": len(entries), "link": []any{map[string]any{"relation": "self", "url": base}}, "entry": entries})
	return http.StatusOK, body, err
}

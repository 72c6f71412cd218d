package edge

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"waymark/services/edge/fhir"
	"waymark/services/kit/estest"
	"waymark/services/kit/run"
)

// deaf is a connection to services of which every call fails.
type deaf struct {
	grpc.ClientConnInterface
	err error
}

func (d deaf) Invoke(context.Context, string, any, any, ...grpc.CallOption) error { return d.err }

func aloneWith(t *testing.T, err error) run.Deps {
	return run.Deps{Log: estest.NewAuditedLog(t), Dial: func(string) grpc.ClientConnInterface { return deaf{err: err} }, Clock: time.Now, Slog: slog.New(slog.NewTextHandler(io.Discard, nil))}
}

// TestFHIRFaults: what cannot be answered says so in FHIR, with a status that a
// client can act on, and without the words of the cause.
func TestFHIRFaults(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err    error
		status int
		code   string
		retry  bool
	}{
		{status.Error(codes.Unavailable, "down"), 503, "transient", true},
		{status.Error(codes.ResourceExhausted, "busy"), 429, "throttled", true},
		{status.Error(codes.DeadlineExceeded, "late"), 504, "timeout", false},
		{context.DeadlineExceeded, 504, "timeout", false},
		{status.Error(codes.FailedPrecondition, "not now"), 409, "conflict", false},
		{status.Error(codes.Internal, "Secretname broke it"), 500, "exception", false},
		{io.ErrUnexpectedEOF, 500, "exception", false},
	} {
		s := newFHIRServer(aloneWith(t, c.err), FHIROptions{})
		ctx, cancel := context.WithCancel(t.Context())
		go s.records.Run(ctx)
		if err := s.records.Wait(ctx, 0); err != nil {
			t.Fatal(err)
		}
		s.records.Lock()
		s.records.begins(ofPerson, "p")
		s.records.owns("p", "p")
		s.records.events++
		if err := s.records.store(); err != nil {
			t.Error(err)
		}
		s.records.Unlock()
		for _, path := range []string{"/Patient/p", "/Patient"} {
			w := httptest.NewRecorder()
			s.ServeHTTP(w, httptest.NewRequest(http.MethodGet, FHIRPath+path, nil))
			r, issues := fhir.Decode(w.Body.Bytes())
			outcome, ok := r.(*fhir.OperationOutcome)
			if w.Code != c.status || len(issues) > 0 || !ok || outcome.Issue[0].Code != c.code || (w.Header().Get("Retry-After") != "") != c.retry {
				t.Errorf("%v: %s answers %d %s", c.err, path, w.Code, w.Body)
			}
			if strings.Contains(w.Body.String(), "Secretname") {
				t.Errorf("%s tells the cause: %s", path, w.Body)
			}
		}
		cancel()
	}
}

// TestFHIRBounds: more requests than may be in hand are turned away at once.
func TestFHIRBounds(t *testing.T) {
	t.Parallel()
	s := newFHIRServer(aloneWith(t, nil), FHIROptions{InFlight: 1})
	get := func() *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequest(http.MethodGet, FHIRPath+"/metadata", nil))
		return w
	}
	s.busy <- struct{}{} // one is in hand
	if w := get(); w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") == "" {
		t.Errorf("the second of one is answered %d", w.Code)
	}
	<-s.busy
	if w := get(); w.Code != http.StatusOK {
		t.Errorf("the next is answered %d", w.Code)
	}
	form := httptest.NewRequest(http.MethodPost, FHIRPath+"/Patient/_search", strings.NewReader("_id="+strings.Repeat("x", maxForm)))
	form.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	w := httptest.NewRecorder()
	if s.ServeHTTP(w, form); w.Code != http.StatusRequestEntityTooLarge {
		t.Errorf("a search of more than 64 KiB is answered %d", w.Code)
	}
}

// TestFHIRPart serves with TLS until it is ended.
func TestFHIRPart(t *testing.T) {
	t.Parallel()
	example := httptest.NewTLSServer(nil) // for its certificate
	defer example.Close()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	part := FHIR(aloneWith(t, nil), lis, FHIROptions{TLS: &tls.Config{Certificates: example.TLS.Certificates, MinVersion: tls.VersionTLS12}})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- part.Run(ctx) }()
	res, err := example.Client().Get("https://" + lis.Addr().String() + FHIRPath + "/metadata")
	if err != nil {
		t.Fatal(err)
	}
	var statement struct{ Implementation struct{ URL string } }
	if err := json.NewDecoder(res.Body).Decode(&statement); err != nil || statement.Implementation.URL != "https://"+lis.Addr().String()+FHIRPath {
		t.Errorf("%v: it says that it is at %s", err, statement.Implementation.URL)
	}
	res.Body.Close()
	cancel()
	if err := <-ended; err != context.Canceled {
		t.Errorf("ended with %v", err)
	}
	if err := part.Close(); err != nil {
		t.Error(err)
	}
	if _, err := example.Client().Get("https://" + lis.Addr().String() + FHIRPath + "/metadata"); err == nil {
		t.Error("it answers after its end")
	}
}

// FuzzSearch asks with any query: it is answered or refused, as FHIR, and never with a fault.
func FuzzSearch(f *testing.F) {
	for _, q := range []string{"status=active", "date=ge2026-01-01&date=lt2027", "_id=a,b", "identifier=a|b", "_as-of=12", "_count=3&_page=1", "owner:identifier=|x", "_lastUpdated=eq2026-02-03T04:05:06.7Z", "a=%zz", "patient=Patient/x", "_format=json&_pretty=true"} {
		f.Add(q)
	}
	deps := run.Deps{Log: estest.NewLog(), Dial: func(string) grpc.ClientConnInterface { return deaf{err: status.Error(codes.NotFound, "nobody")} }, Clock: time.Now, Slog: slog.New(slog.NewTextHandler(io.Discard, nil))}
	s := newFHIRServer(deps, FHIROptions{})
	go s.records.Run(f.Context())
	f.Fuzz(func(t *testing.T, query string) {
		for _, k := range []string{"Task", "Patient", "Slot", "EpisodeOfCare"} {
			r := httptest.NewRequest(http.MethodGet, FHIRPath+"/"+k, nil)
			r.URL.RawQuery = query
			w := httptest.NewRecorder()
			s.ServeHTTP(w, r)
			if w.Code != 200 && w.Code != 400 && w.Code != 406 {
				t.Fatalf("%d %s", w.Code, w.Body)
			}
			if _, issues := fhir.Decode(w.Body.Bytes()); len(issues) > 0 {
				t.Fatalf("what is answered is not R4: %v\n%s", issues, w.Body)
			}
		}
	})
}

// TestRecordsOwners: a thing is the first one's that names it, a stream's own id is
// its own, and ids are told apart letter by letter, also those that are not UUIDs.
func TestRecordsOwners(t *testing.T) {
	t.Parallel()
	const lower, other = "0b7e6f0a-53cd-4c1e-9d0a-3f0f6f5a1c2d", "1b7e6f0a-53cd-4c1e-9d0a-3f0f6f5a1c2d"
	x := newRecords(estest.NewLog(), nil, "", nil)
	if _, err := x.begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer x.close()
	x.owns(lower, lower)
	x.owns(lower, "a slot")
	x.owns(lower, other)
	x.owns(other, other) // its own stream began after somebody named it
	x.owns(other, "A slot")
	x.events++
	if err := x.settle(); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]string{lower: lower, other: other, "a slot": lower, "A slot": other,
		strings.ToUpper(lower): "", "{" + lower[1:35] + "}": "", "": ""} {
		if got, err := x.ownerOf(id); err != nil || got != want {
			t.Errorf("%q is %q's, want %q: %v", id, got, want, err)
		}
	}
}

package allinone

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"waymark/services/kit/es"
	"waymark/services/kit/run"
)

func start(t *testing.T, opts Options) *System {
	t.Helper()
	opts.AnyPort = true
	opts.Logger = logger(t)
	s, err := Start(within(t, time.Minute), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	return s
}

func logger(t *testing.T) *slog.Logger {
	l, err := run.NewLogger(t.Output(), "text", "warn")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestStartStopAndStartAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := start(t, Options{Data: dir})
	for _, name := range append(Names(), "", "relay.read", "relay.write") {
		if got := health(t, s, name); got != healthv1.HealthCheckResponse_SERVING {
			t.Errorf("%q is %s after Start", name, got)
		}
	}
	if _, err := Start(within(t, time.Minute), Options{Data: dir, AnyPort: true}); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("in use by process %d", os.Getpid())) {
		t.Errorf("a second system in the same folder: %v", err)
	}
	key, err := os.ReadFile(filepath.Join(dir, keyFile))
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(dir, keyFile)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key file: %v, %v", info.Mode(), err)
	}
	log := open(t, s)
	if _, err := log.Append(within(t, time.Minute), "schema-test", es.NoStream, []es.NewEvent{{ID: uuid.New(), Type: "test", Data: []byte("x"), Metadata: []byte("{}")}}); err != nil {
		t.Fatal(err)
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}

	s = start(t, Options{Data: dir})
	if n := events(t, s, "schema-test"); n != 1 {
		t.Errorf("%d events after a restart, want 1", n)
	}
	if n := contractsOf(t, s); n != 1 {
		t.Errorf("the contracts are stored %d times after two starts, want once", n)
	}
	if again, err := os.ReadFile(filepath.Join(dir, keyFile)); err != nil || string(again) != string(key) {
		t.Errorf("the key changed: %v", err)
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}

	s = start(t, Options{Data: dir, Fresh: true})
	if n := events(t, s, "schema-test"); n != 0 {
		t.Errorf("%d events after --fresh, want 0", n)
	}
}

// TestReadModelIsKept: the pathway service finds its read model after a restart,
// and an empty one after --fresh, although the log is another then.
func TestReadModelIsKept(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	model := func() (names []string) {
		names, err := filepath.Glob(filepath.Join(dir, modelsDir, "pathway", "model-*", "MANIFEST-*"))
		if err != nil {
			t.Fatal(err)
		}
		return names
	}
	s := start(t, Options{Data: dir})
	if len(model()) != 1 {
		t.Errorf("read models %v", model())
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	mark := filepath.Join(dir, modelsDir, "of the old log")
	if err := os.WriteFile(mark, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	start(t, Options{Data: dir, Fresh: true})
	if _, err := os.Stat(mark); !os.IsNotExist(err) || len(model()) != 1 {
		t.Errorf("after --fresh: %v, read models %v", err, model())
	}
}

func TestTakenPortNamesItsOwner(t *testing.T) {
	t.Parallel()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	port := lis.Addr().(*net.TCPAddr).Port
	_, err = Start(within(t, time.Minute), Options{Data: t.TempDir(), PortOffset: port - HTTPPort})
	if want := fmt.Sprintf("port %d (HTTP) is taken by process %d (", port, os.Getpid()); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "--port-offset") {
		t.Errorf("got %v, want %q", err, want)
	}
	if _, err := Start(within(t, time.Minute), Options{PortOffset: 60_000}); err == nil || !strings.Contains(err.Error(), "must be from") {
		t.Errorf("offset 60,000: %v", err)
	}
}

func TestFolderIsRefusedRatherThanHarmed(t *testing.T) {
	t.Parallel()
	for want, prepare := range map[string]func(dir string) error{
		"holds no Waymark data": func(dir string) error { return os.WriteFile(filepath.Join(dir, "thesis.doc"), nil, 0o600) },
		"waymark events export": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, formatFile), []byte("waymark data 2\n"), 0o600)
		},
		"is damaged":        func(dir string) error { return os.WriteFile(filepath.Join(dir, formatFile), []byte("x"), 0o600) },
		"events but no key": func(dir string) error { return os.Mkdir(filepath.Join(dir, storeDir), 0o700) },
		"put it back": func(dir string) error {
			f, err := openFolder(dir, false)
			if err != nil {
				return err
			}
			return errors.Join(f.close(), os.Remove(filepath.Join(dir, keyFile)))
		},
	} {
		dir := t.TempDir()
		if err := prepare(dir); err != nil {
			t.Fatal(err)
		}
		if _, err := openFolder(dir, false); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "thesis.doc"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openFolder(dir, true); err == nil {
		t.Error("--fresh took a folder that holds something else")
	}
}

func TestUnknownServiceIsRefused(t *testing.T) {
	t.Parallel()
	if _, err := build(run.Deps{}, "persn"); err == nil || !strings.Contains(err.Error(), `"persn"`) {
		t.Errorf("got %v", err)
	}
}

// TestSeparateForm runs services in a second program against the store and NATS
// of a first, as `waymark run` does.
func TestSeparateForm(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Data: t.TempDir()})
	cfg := run.Config{EventStore: s.EventStore, NATS: s.NATS, GRPC: "127.0.0.1:0", HTTP: "127.0.0.1:0", Drain: time.Nanosecond,
		KeyFile: filepath.Join(s.Data, keyFile), LogLevel: "error"}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	var second System
	program, deps, err := second.assemble(ctx, cfg.WithDefaults(), "second", []byte(strings.Repeat("k", 32)), logger(t))
	if err != nil {
		t.Fatal(err)
	}
	parts, err := build(deps)
	if err != nil {
		t.Fatal(err)
	}
	go func() { ended <- errors.Join(program.Serve(ctx, deps, parts...), second.close()) }()
	select {
	case <-program.Ready():
	case <-within(t, time.Minute).Done():
		t.Error("not ready")
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("ended with %v", err)
	}
	cfg.Models = t.TempDir()
	if err := RunServices(ctx, cfg); err != nil { // ctx has ended: it starts and stops
		t.Errorf("RunServices: %v", err)
	}
	if kept, err := filepath.Glob(filepath.Join(cfg.Models, "pathway", "model-*", "MANIFEST-*")); err != nil || len(kept) != 1 {
		t.Errorf("--models: read models %v, %v", kept, err)
	}
	cfg.Models = filepath.Join(s.Data, modelsDir) // of the first
	if err := RunServices(ctx, cfg, "pathway"); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("a folder in use: %v", err)
	}
	if err := RunServices(ctx, run.Config{}); err == nil || !strings.Contains(err.Error(), "--key-file") {
		t.Errorf("without a key: %v", err)
	}
}

func health(t *testing.T, s *System, name string) healthv1.HealthCheckResponse_ServingStatus {
	t.Helper()
	conn, err := run.Dial(s.GRPC, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	got, err := healthv1.NewHealthClient(conn).Check(t.Context(), &healthv1.HealthCheckRequest{Service: name})
	if err != nil {
		t.Fatal(err)
	}
	return got.Status
}

func open(t *testing.T, s *System) es.Log {
	t.Helper()
	log, err := es.Open(es.Config{URL: s.EventStore})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	return log
}

func contractsOf(t *testing.T, s *System) (n int) {
	t.Helper()
	err := open(t, s).ReadAll(within(t, time.Minute), 0, func(e es.Recorded) error {
		if strings.HasPrefix(e.Stream, "schema-") && e.Stream != "schema-test" {
			n++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func events(t *testing.T, s *System, stream string) (n int) {
	t.Helper()
	err := open(t, s).Read(within(t, time.Minute), stream, 0, func(es.Recorded) error { n++; return nil })
	if err != nil {
		t.Fatal(err)
	}
	return n
}

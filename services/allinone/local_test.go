package allinone

import (
	"context"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/google/uuid"

	"waymark/services/eventstore"
	"waymark/services/kit/es"
	"waymark/services/kit/estest"
	"waymark/services/kit/fault"
)

// opened is a node in memory of this process with the log that reads from it, and
// the client that it stands beside.
func opened(t *testing.T) (node *eventstore.Node, log, client es.Log) {
	t.Helper()
	node, err := eventstore.Open(eventstore.Config{Dir: t.TempDir(), MinFree: 1})
	if err != nil {
		t.Fatal(err)
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- node.Serve(lis) }()
	t.Cleanup(func() {
		if err := errors.Join(node.Close(), <-served); err != nil {
			t.Error(err)
		}
	})
	c, err := es.Open(es.Config{URL: "esdb://" + lis.Addr().String() + "?tls=false"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return node, Local(node, c), c
}

func TestLocalIsALog(t *testing.T) {
	t.Parallel()
	_, log, _ := opened(t)
	estest.LogSuite(t, func() es.Log { return log })
}

// TestLocalSeesWhatTheClientSees, byte for byte and in the same order.
func TestLocalSeesWhatTheClientSees(t *testing.T) {
	t.Parallel()
	_, log, client := opened(t)
	ctx := within(t, time.Minute)
	for i := range 200 {
		var events []es.NewEvent
		for n := range 1 + i%7 {
			events = append(events, es.NewEvent{ID: uuid.New(), Type: fmt.Sprint("type", n), Data: make([]byte, i*n), Metadata: make([]byte, n)})
		}
		if _, err := client.Append(ctx, fmt.Sprint("some-", i), es.NoStream, events); err != nil {
			t.Fatal(err)
		}
	}
	all := func(log es.Log, after es.Position) (told []string) {
		if err := log.ReadAll(ctx, after, func(e es.Recorded) error { told = append(told, fmt.Sprintf("%+v", e)); return nil }); err != nil {
			t.Fatal(err)
		}
		return told
	}
	for _, after := range []es.Position{0, 1, 100, 500, 5000} {
		mine, theirs := all(log, after), all(client, after)
		if len(mine) != len(theirs) || after == 0 && len(mine) < 700 {
			t.Fatalf("after %d: %d events, the client %d", after, len(mine), len(theirs))
		}
		for i := range mine {
			if mine[i] != theirs[i] {
				t.Fatalf("after %d, event %d:\n%s\n%s", after, i, mine[i], theirs[i])
			}
		}
	}
}

// TestLocalEndsWithItsNode: a subscription ends, and nothing reads a store that is closed.
func TestLocalEndsWithItsNode(t *testing.T) {
	t.Parallel()
	node, log, _ := opened(t)
	live, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- log.Subscribe(context.Background(), 0, es.Filter{}, func(m es.Message) error {
			if m.CaughtUp {
				close(live)
			}
			return nil
		})
	}()
	<-live
	if err := node.Close(); err != nil {
		t.Fatal(err)
	}
	_, head := log.Head(t.Context())
	for i, err := range []error{<-ended, head, log.Read(t.Context(), "a-b", 0, nil), log.ReadAll(t.Context(), 0, nil)} {
		if f := (*fault.Error)(nil); !errors.As(err, &f) || f.Code != "log.unavailable" {
			t.Errorf("call %d of a closed node: %v", i, err)
		}
	}
}

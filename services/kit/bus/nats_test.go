package bus

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	appointmentv1 "waymark/proto/waymark/appointment/v1"
	careleadv1 "waymark/proto/waymark/carelead/v1"
	metav1 "waymark/proto/waymark/meta/v1"
	"waymark/services/kit/es"
)

// node is an embedded NATS server on a folder of its own, which tests stop,
// damage and start again.
type node struct {
	t   testing.TB
	dir string

	mu  sync.Mutex
	srv *server.Server // nil while stopped; under mu
}

func startNATS(t testing.TB) *node {
	n := &node{t: t, dir: t.TempDir()}
	n.start()
	t.Cleanup(n.stop)
	return n
}

func (n *node) start() {
	n.t.Helper()
	srv, err := server.NewServer(&server.Options{
		ServerName: "test", DontListen: true, JetStream: true, StoreDir: n.dir, SyncAlways: true, NoSigs: true, NoLog: true,
		JetStreamMaxMemory: 64 << 20, JetStreamMaxStore: 1 << 30,
	})
	if err != nil {
		n.t.Fatal(err)
	}
	srv.Start()
	if !srv.ReadyForConnections(10 * time.Second) {
		n.t.Fatal("NATS did not start")
	}
	n.mu.Lock()
	n.srv = srv
	n.mu.Unlock()
}

func (n *node) stop() {
	n.mu.Lock()
	srv := n.srv
	n.srv = nil
	n.mu.Unlock()
	if srv != nil {
		srv.Shutdown()
		srv.WaitForShutdown()
	}
}

// InProcessConn connects to whichever server runs now.
func (n *node) InProcessConn() (net.Conn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.srv == nil {
		return nil, errors.New("stopped")
	}
	return n.srv.InProcessConn()
}

func (n *node) connect() jetstream.JetStream {
	n.t.Helper()
	nc, err := nats.Connect("", nats.InProcessServer(n), nats.MaxReconnects(-1), nats.ReconnectWait(5*time.Millisecond), nats.ReconnectJitter(0, 0),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		n.t.Fatal(err)
	}
	return js
}

// write appends one event to the log and returns its position.
func write(t testing.TB, log es.Log, stream string, revision es.Revision, m proto.Message) es.Position {
	t.Helper()
	data, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	meta := `{"commandId":"6f1c3f4e-8f52-4a58-9d2e-0f7f5b1d2a11","$correlationId":"corr-1","$causationId":"cause-1","actor":{"user":"555"},"purpose":"TREAT","reason":"secret reason","tenant":"RJ1","occurredAt":"2026-11-20T08:00:00Z","traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01","chain":"x"}`
	done, err := log.Append(context.Background(), stream, revision-1, []es.NewEvent{{ID: uuid.New(), Type: string(m.ProtoReflect().Descriptor().FullName()), Data: data, Metadata: []byte(meta)}})
	if err != nil {
		t.Fatal(err)
	}
	return done.Position
}

// writeMany appends the events from number first up to last to streams of two
// categories; checkpoints, which are not relayed, lie between them.
func writeMany(t testing.TB, log es.Log, first, last int) {
	t.Helper()
	for i := first; i < last; i++ {
		if i%10 == 9 {
			write(t, log, fmt.Sprintf("checkpoint-%d", i), 0, &metav1.Checkpoint{Position: uint64(i)})
		}
		if i%4 == 3 {
			write(t, log, fmt.Sprintf("appointment-%d", i), 0, &appointmentv1.AppointmentBooked{
				AppointmentId: fmt.Sprint("appointment-", i), Purpose: "clinical words", ReferralId: "r"})
			continue
		}
		write(t, log, fmt.Sprintf("carelead-%d", i), 0, &careleadv1.HandoverOffered{
			HandoverId: fmt.Sprint("handover-", i), SummaryVersion: int64(i), To: &careleadv1.Party{Id: "lead-1", Organisation: "RJ1"}})
	}
}

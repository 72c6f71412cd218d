// Package eventstore is Waymark's embedded event store node: a durable server
// that speaks EventStoreDB's gRPC protocol, on Pebble.
//
// One goroutine, the sequencer, decides and numbers every write and commits them
// in groups; an append is answered after the sync of its group. Events are
// stored as the bytes that clients receive, once in log order and once in stream
// order, so that a read is a scan that passes bytes on. Readers and
// subscriptions see nothing beyond the durable position.
//
//	record.go     layout of keys and records; the ready-made frame
//	store.go      the database: open, recover, scan
//	decide.go     the table of expected revisions and idempotency
//	sequencer.go  group commit
//	tail.go       the durable position and the newest events, shared by all
//	streams.go    Append, Delete, Tombstone; batch.go: BatchAppend
//	read.go       reads; subscribe.go: catch-up subscriptions; filter.go
//	direct.go     the same within the process, without gRPC
//	persistent.go persistent subscriptions: groupconfig.go, consumergroup.go
//	fsck.go       the checker
package eventstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/protos/gossip"
	persistentpb "github.com/EventStore/EventStore-Client-Go/v4/protos/persistent"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/serverfeatures"
	streamspb "github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
)

// Config of a node. Dir is required; all else has a sound zero value.
type Config struct {
	Dir string
	// TLSCert and TLSKey are PEM files; with both, the node speaks TLS only and
	// asks for credentials. Without them it allows all and must listen on loopback.
	TLSCert, TLSKey string
	// Users maps a user name to its password; used with TLS only. The user "admin"
	// is the one administrator: access control lists do not bind it, and only it
	// may touch streams whose name begins with "$".
	Users map[string]string
	// Advertise is the "host:port" that Gossip tells clients to use; empty means
	// the address the node listens on.
	Advertise string
	// MinFree is how many bytes must be free on the disk for an append to be
	// taken; 0 means 256 MiB.
	MinFree uint64
	// FreeBytes tells how many bytes are free; nil asks the disk of Dir.
	FreeBytes func() (uint64, error)
	// MaxAppendSize bounds one append: the sum over its events of data, metadata
	// and twice the type's length, in bytes; 0 means 1 MiB, more than 16 MiB is
	// refused.
	MaxAppendSize int
	Logger        *slog.Logger     // nil discards
	Clock         func() time.Time // nil is the machine's clock

	FS     vfs.FS // nil means the disk; tests set a crashable one
	NoSync bool   // never set: the control of crash tests, which must lose events
	// Fatal is called once when storage fails beyond repair, such as a failed sync;
	// nil ends the process, which is the only safe thing to do. A test that sets it
	// must treat the node as dead: it acknowledges nothing any more.
	Fatal func(reason string)

	tail int                   // tests make the tail of the log short
	tune func(*pebble.Options) // tests change what Open would set
}

func (cfg *Config) defaults() error {
	if cfg.Dir == "" {
		return errors.New("Config.Dir is required")
	}
	if (cfg.TLSCert == "") != (cfg.TLSKey == "") {
		return errors.New("TLSCert and TLSKey go together")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	if cfg.FS == nil {
		cfg.FS = vfs.Default
	}
	if cfg.MinFree == 0 {
		cfg.MinFree = 256 << 20
	}
	if cfg.FreeBytes == nil {
		cfg.FreeBytes = diskFree(cfg.FS, cfg.Dir)
	}
	if cfg.MaxAppendSize == 0 {
		cfg.MaxAppendSize = 1 << 20
	}
	if cfg.MaxAppendSize > maxEventSize {
		return fmt.Errorf("MaxAppendSize %d is above %d", cfg.MaxAppendSize, maxEventSize)
	}
	if cfg.tail == 0 {
		cfg.tail = tailRecords
	}
	if cfg.Fatal == nil {
		cfg.Fatal = func(string) { os.Exit(1) }
	}
	return nil
}

// maxEventSize is the largest event that clients can receive.
const maxEventSize = 16<<20 - 10_000

// maxMessage bounds one message from a client.
const maxMessage = 17 << 20

// Node is an open store and its gRPC server. Any goroutine may use it.
type Node struct {
	cfg    Config
	store  *store
	log    *tail
	seq    *sequencer
	subs   *persistent
	server *grpc.Server

	ctx       context.Context // ends when Close begins
	cancel    context.CancelFunc
	closeOnce sync.Once
	closeErr  error

	mu        sync.Mutex
	advertise string         // guarded by mu; set by Serve
	readers   sync.WaitGroup // within the process; added to under mu, before ctx ends
}

// Open opens or makes the store in cfg.Dir and recovers it: every append that
// was acknowledged before a crash is there.
func Open(cfg Config) (*Node, error) {
	if err := cfg.defaults(); err != nil {
		return nil, fmt.Errorf("event store: %w", err)
	}
	n := &Node{cfg: cfg, log: newTail(cfg.tail), advertise: cfg.Advertise}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	failed := &failure{report: func(reason string) {
		cfg.Logger.Error("event store: storage failed, the node ends", "reason", reason)
		cfg.Fatal(reason)
	}}
	var err error
	if n.store, err = openStore(cfg.Dir, cfg.FS, cfg.Logger, failed.set, false, cfg.tune); err != nil {
		return nil, fmt.Errorf("event store: open %s: %w", cfg.Dir, err)
	}
	if n.seq, err = newSequencer(n.store, n.log, cfg, failed); err != nil {
		return nil, errors.Join(fmt.Errorf("event store: recover %s: %w", cfg.Dir, err), n.store.db.Close())
	}
	if err := n.start(); err != nil {
		return nil, errors.Join(fmt.Errorf("event store: %w", err), n.Close())
	}
	return n, nil
}

// start writes the first event of a new store and makes the server.
func (n *Node) start() error {
	if durable, _ := n.log.position(); durable == 0 {
		ev := proposed{id: eventID(uuid.New()), typ: "$User", data: []byte("admin")}
		// A full disk refuses it; the next start tries again.
		if _, err := n.seq.do(&write{ctx: n.ctx, stream: "$users", expected: expectAny, events: []proposed{ev}}); err != nil && !errors.Is(err, errNoRoom) {
			return err
		}
	}
	opts := []grpc.ServerOption{
		grpc.ForceServerCodecV2(codec{}),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxConcurrentStreams(10_000),
		grpc.NumStreamWorkers(64), // a goroutine that has grown its stack once serves many calls
		grpc.MaxHeaderListSize(64 << 10),
		grpc.InitialWindowSize(1 << 20),
		grpc.InitialConnWindowSize(4 << 20),
		grpc.WaitForHandlers(true),
		// The official client pings every 10 s, without streams too; grpc's default
		// would cut it off.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 2 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 20 * time.Second, Timeout: 20 * time.Second}),
	}
	if n.cfg.TLSCert != "" {
		creds, err := credentials.NewServerTLSFromFile(n.cfg.TLSCert, n.cfg.TLSKey)
		if err != nil {
			return err
		}
		opts = append(opts, grpc.Creds(creds), grpc.UnaryInterceptor(n.authenticateUnary), grpc.StreamInterceptor(n.authenticateStream))
	}
	var err error
	if n.subs, err = newPersistent(n); err != nil {
		return err
	}
	n.server = grpc.NewServer(opts...)
	persistentpb.RegisterPersistentSubscriptionsServer(n.server, n.subs)
	streamspb.RegisterStreamsServer(n.server, &streams{node: n})
	gossip.RegisterGossipServer(n.server, &gossipServer{node: n})
	serverfeatures.RegisterServerFeaturesServer(n.server, &featuresServer{})
	return nil
}

// Serve serves the EventStoreDB protocol on lis until Close. It returns nil
// after Close. A node without TLS serves on loopback only.
func (n *Node) Serve(lis net.Listener) error {
	if addr, ok := lis.Addr().(*net.TCPAddr); ok && n.cfg.TLSCert == "" && !addr.IP.IsLoopback() {
		return fmt.Errorf("event store: %s is not loopback: a node that listens there needs TLS", addr)
	}
	n.mu.Lock()
	if n.advertise == "" {
		n.advertise = lis.Addr().String()
	}
	n.mu.Unlock()
	if err := n.server.Serve(lis); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("event store: %w", err)
	}
	return nil
}

// Close ends all calls and closes the store. Writes that were not acknowledged
// may or may not have happened.
func (n *Node) Close() error {
	n.closeOnce.Do(func() {
		n.mu.Lock()
		n.cancel()
		n.mu.Unlock()
		if n.subs != nil {
			n.subs.close()
		}
		if n.server != nil {
			n.server.Stop()
		}
		n.readers.Wait()
		n.seq.close()
		n.closeErr = n.store.db.Close()
	})
	return n.closeErr
}

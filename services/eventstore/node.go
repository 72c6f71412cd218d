// Package eventstore is Waymark's embedded event store node.
package eventstore

import (
	"log/slog"
	"net"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Config of a node. Dir is required; all else has a sound zero value.
type Config struct {
	Dir string
	// TLSCert and TLSKey are PEM files; with both, the node speaks TLS only and
	// asks for credentials. Without them it allows all and must listen on loopback.
	TLSCert, TLSKey string
	// Users maps a user name to its password; used with TLS only.
	Users map[string]string
	// MinFree is how many bytes must be free on the disk for an append to be
	// taken; 0 means 256 MiB.
	MinFree uint64
	Logger  *slog.Logger // nil discards

	FS     vfs.FS // nil means the disk; tests set a crashable one
	NoSync bool   // never set: the control of crash tests, which must lose events
}

// Node is an open store and its gRPC server.
type Node struct{}

// Open opens or makes the store in cfg.Dir and recovers it.
func Open(cfg Config) (*Node, error) { return nil, nil }

// Serve serves the EventStoreDB protocol on lis until Close. It returns nil after Close.
func (n *Node) Serve(lis net.Listener) error { return nil }

// Close ends all calls and closes the store.
func (n *Node) Close() error { return nil }

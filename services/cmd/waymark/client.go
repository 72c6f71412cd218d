package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"

	"waymark/services/kit/es"
	"waymark/services/kit/run"
)

// target says which system a client command speaks to. Addresses left out are
// those of `waymark dev` with the same --port-offset.
type target struct {
	PortOffset  int           `flag:"port-offset" help:"added to the standard ports, as of waymark dev --port-offset"`
	GRPC        string        `flag:"grpc" help:"address of the services (default 127.0.0.1:7400)"`
	HTTP        string        `flag:"http" help:"address of /readyz (default 127.0.0.1:7480)"`
	NATS        string        `flag:"nats" help:"NATS servers (default nats://127.0.0.1:4222)"`
	EventStore  string        `flag:"eventstore" help:"connection string of the event store (default esdb://127.0.0.1:2113?tls=false)"`
	StoreAuth   string        `flag:"eventstore-auth-file" help:"file with user:password of the event store"`
	NATSCreds   string        `flag:"nats-creds-file" help:"NATS credentials file"`
	TLSCA       string        `flag:"tls-ca" help:"PEM certificates that sign the services; they are called with TLS"`
	TLSCert     string        `flag:"tls-cert" help:"PEM certificate to show to the services"`
	TLSKey      string        `flag:"tls-key" help:"PEM file with the key of --tls-cert"`
	Environment string        `flag:"environment" help:"the deployment that the relay names in its events, as of waymark run --environment"`
	Timeout     time.Duration `flag:"timeout" default:"10s" help:"time an answer may take"`
}

// The standard ports. PortOffset is added to each.
const (
	portGRPC       = 7400
	portHTTP       = 7480
	portNATS       = 4222
	portEventStore = 2113
)

func (c *cli) bindTarget(cmd *cobra.Command) *target {
	t := &target{}
	run.Bind(cmd.Flags(), t)
	return t
}

func (t *target) at(port int) string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port+t.PortOffset))
}

func (t *target) grpcAddress() string { return or(t.GRPC, t.at(portGRPC)) }
func (t *target) httpAddress() string { return or(t.HTTP, t.at(portHTTP)) }
func (t *target) natsURL() string     { return or(t.NATS, "nats://"+t.at(portNATS)) }
func (t *target) storeURL() string {
	return or(t.EventStore, "esdb://"+t.at(portEventStore)+"?tls=false")
}

// flags are the flags that reach the same system, for pasteable hints; "" when none is needed.
func (t *target) flags() string {
	out := ""
	if t.PortOffset != 0 {
		out = fmt.Sprintf(" --port-offset %d", t.PortOffset)
	}
	for _, f := range [][2]string{{"grpc", t.GRPC}, {"http", t.HTTP}, {"nats", t.NATS}, {"eventstore", t.EventStore},
		{"eventstore-auth-file", t.StoreAuth}, {"nats-creds-file", t.NATSCreds}, {"tls-ca", t.TLSCA}, {"tls-cert", t.TLSCert}, {"tls-key", t.TLSKey}} {
		if f[1] != "" {
			out += fmt.Sprintf(" --%s '%s'", f[0], withoutUser(f[1]))
		}
	}
	return out
}

// local reports whether the services are on this machine.
func (t *target) local() bool {
	return isLoopback(t.grpcAddress())
}

func isLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func (t *target) dial() (*grpc.ClientConn, error) {
	conf, err := t.tls()
	if err != nil {
		return nil, err
	}
	var creds credentials.TransportCredentials
	if conf != nil {
		creds = credentials.NewTLS(conf)
	}
	return run.Dial(t.grpcAddress(), creds, nil)
}

// tls is what to call the services with, nil for no TLS.
func (t *target) tls() (*tls.Config, error) {
	if (t.TLSCert == "") != (t.TLSKey == "") || t.TLSCert != "" && t.TLSCA == "" {
		return nil, usage(nil, errors.New("--tls-cert and --tls-key belong together, and need --tls-ca"))
	}
	conf, err := run.Config{TLSCA: t.TLSCA, TLSCert: t.TLSCert, TLSKey: t.TLSKey}.ClientTLS()
	if err != nil {
		return nil, usage(nil, err)
	}
	return conf, nil
}

// withoutUser hides the user part of an address.
func withoutUser(address string) string {
	if u, err := url.Parse(address); err == nil && u.User != nil {
		return u.Redacted()
	}
	return address
}

func or(s, otherwise string) string {
	if s != "" {
		return s
	}
	return otherwise
}

// stores are the log and the bus of a system.
type stores struct {
	log es.Log
	js  jetstream.JetStream
}

// withLog runs do with the system's log.
func (c *cli) withLog(t *target, do func(es.Log) error) error {
	address, err := run.Config{EventStore: t.storeURL(), EventStoreAuth: t.StoreAuth}.EventStoreURL()
	if err != nil {
		return usage(nil, fmt.Errorf("--eventstore: %w", err))
	}
	log, err := es.Open(es.Config{URL: address, Timeout: t.Timeout})
	if err != nil {
		return usage(nil, fmt.Errorf("--eventstore: %w", err))
	}
	defer log.Close()
	if err := do(log); err != nil {
		if codeOf(err) == codes.Unavailable || codeOf(err) == codes.DeadlineExceeded {
			return unavailable("waymark doctor"+t.flags(), "the event store at %s does not answer: %w", withoutUser(t.storeURL()), err)
		}
		return err
	}
	return nil
}

// withNATS runs do with the system's NATS.
func (c *cli) withNATS(t *target, do func(jetstream.JetStream) error) error {
	opts := []nats.Option{nats.Name("waymark"), nats.Timeout(t.Timeout), nats.MaxReconnects(-1)}
	if t.NATSCreds != "" {
		opts = append(opts, nats.UserCredentials(t.NATSCreds))
	}
	nc, err := nats.Connect(t.natsURL(), opts...)
	if err != nil {
		return unavailable("waymark doctor"+t.flags(), "NATS at %s does not answer: %w", withoutUser(t.natsURL()), err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	return do(js)
}

// withBus runs do with the system's log and bus.
func (c *cli) withBus(t *target, do func(*stores) error) error {
	return c.withNATS(t, func(js jetstream.JetStream) error {
		return c.withLog(t, func(log es.Log) error { return do(&stores{log, js}) })
	})
}

package run

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"sync"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"waymark/services/kit/fault"
)

// callTime is the deadline of a call whose caller set none.
const callTime = 5 * time.Second

// window is how many bytes a stream may have on the way, connWindow a connection.
const (
	window     = 1 << 20
	connWindow = 4 << 20
)

// retries is grpc-go's own retry, for UNAVAILABLE alone, and never more than a
// tenth of the calls that succeed. A command may be retried because it carries
// its command id; nothing is ever hedged.
const retries = `{
	"loadBalancingConfig": [{"round_robin": {}}],
	"methodConfig": [{
		"name": [{}],
		"retryPolicy": {
			"maxAttempts": 4,
			"initialBackoff": "0.05s",
			"maxBackoff": "1s",
			"backoffMultiplier": 2,
			"retryableStatusCodes": ["UNAVAILABLE"]
		}
	}],
	"retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1}
}`

// Dial returns a connection to a service at address (host:port or a gRPC
// target). It connects when first called and again after every outage. creds
// nil means no TLS; telemetry nil means none.
func Dial(address string, creds credentials.TransportCredentials, telemetry *Telemetry) (*grpc.ClientConn, error) {
	if creds == nil {
		creds = insecure.NewCredentials()
	}
	opts := []grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithDefaultServiceConfig(retries),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second},
			MinConnectTimeout: 5 * time.Second,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithInitialWindowSize(window),
		grpc.WithInitialConnWindowSize(connWindow),
		grpc.WithUnaryInterceptor(withDeadline),
	}
	if telemetry != nil {
		opts = append(opts, grpc.WithStatsHandler(otelgrpc.NewClientHandler(telemetry.grpcOptions()...)))
	}
	return grpc.NewClient(address, opts...)
}

// withDeadline gives a call 5 s where its caller set no deadline. What a
// server already took off a deadline (hop) is not taken off again.
func withDeadline(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, call grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if _, ok := ctx.Deadline(); !ok {
		limited, cancel := context.WithTimeout(ctx, callTime)
		defer cancel()
		ctx = limited
	}
	return call(ctx, method, req, reply, conn, opts...)
}

// dialer keeps one connection for each address.
type dialer struct {
	cfg       Config
	creds     credentials.TransportCredentials
	telemetry *Telemetry

	mu    sync.Mutex
	conns map[string]*grpc.ClientConn // by address
}

func (d *dialer) dial(service string) grpc.ClientConnInterface {
	d.mu.Lock()
	defer d.mu.Unlock()
	address := d.cfg.Peer(service)
	if conn := d.conns[address]; conn != nil {
		return conn
	}
	if address == "" {
		return nowhere{fmt.Errorf("no --peers entry for %s", service)}
	}
	conn, err := Dial(address, d.creds, d.telemetry)
	if err != nil {
		return nowhere{err}
	}
	d.conns[address] = conn
	return conn
}

func (d *dialer) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, conn := range d.conns {
		conn.Close()
	}
}

// nowhere answers every call with the reason that there is no connection.
type nowhere struct{ why error }

func (n nowhere) err() error {
	return fault.Unavailable("call.unavailable", n.why.Error(), time.Minute)
}

func (n nowhere) Invoke(context.Context, string, any, any, ...grpc.CallOption) error { return n.err() }

func (n nowhere) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, n.err()
}

// clientTLS returns the credentials for calls to other services, nil without TLS.
func (c Config) clientTLS() (credentials.TransportCredentials, error) {
	conf, err := c.ClientTLS()
	if conf == nil || err != nil {
		return nil, err
	}
	return credentials.NewTLS(conf), nil
}

// ClientTLS returns what a caller of the services uses: it trusts TLSCA and shows
// TLSCert where there is one. Nil without TLSCA.
func (c Config) ClientTLS() (*tls.Config, error) {
	if c.TLSCA == "" {
		return nil, nil
	}
	pool, err := authorities(c.TLSCA)
	if err != nil {
		return nil, err
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool}
	if c.TLSCert != "" {
		if _, err := c.certificate(); err != nil {
			return nil, err
		}
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c.certificate() }
	}
	return conf, nil
}

// serverTLS returns the credentials of the server, nil without TLS.
func (c Config) serverTLS() (credentials.TransportCredentials, error) {
	conf, err := c.ListenerTLS()
	if conf == nil || err != nil {
		return nil, err
	}
	return credentials.NewTLS(conf), nil
}

// ListenerTLS returns what a listener of this process uses, nil without TLS.
func (c Config) ListenerTLS() (*tls.Config, error) {
	if c.TLSCert == "" {
		return nil, nil
	}
	if _, err := c.certificate(); err != nil {
		return nil, err
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		return c.certificate()
	}}
	if c.TLSCA != "" {
		pool, err := authorities(c.TLSCA)
		if err != nil {
			return nil, err
		}
		conf.ClientCAs, conf.ClientAuth = pool, tls.RequireAndVerifyClientCert
	}
	return conf, nil
}

// certificate reads the certificate anew for each connection, so that a renewed
// one is taken up without a restart.
func (c Config) certificate() (*tls.Certificate, error) {
	cert, err := tls.LoadX509KeyPair(c.TLSCert, c.TLSKey)
	return &cert, err
}

func authorities(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no PEM certificate", file)
	}
	return pool, nil
}

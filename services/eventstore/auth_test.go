package eventstore

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/gossip"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/serverfeatures"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	streamspb "github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// certificate writes a self-signed one for 127.0.0.1 and returns its files.
func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	about := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "node"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, about, about, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	for name, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: pkcs8}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// secure starts a node with TLS and returns a connection as each user.
func secure(t *testing.T) (addr, cert string, as func(user, password string) context.Context, conn *grpc.ClientConn) {
	t.Helper()
	cert, key := certificate(t)
	n, err := Open(Config{Dir: "store", FS: vfs.NewMem(), TLSCert: cert, TLSKey: key, Users: map[string]string{"admin": "changeit", "ann": "secret"}})
	if err != nil {
		t.Fatal(err)
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		if err := n.Serve(lis); err != nil {
			t.Error(err)
		}
	}()
	creds, err := credentials.NewClientTLSFromFile(cert, "")
	if err != nil {
		t.Fatal(err)
	}
	conn, err = grpc.NewClient(lis.Addr().String(), grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	as = func(user, password string) context.Context {
		return metadata.AppendToOutgoingContext(t.Context(), "authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(user+":"+password)))
	}
	return lis.Addr().String(), cert, as, conn
}

func TestAuthentication(t *testing.T) {
	t.Parallel()
	addr, cert, as, conn := secure(t)
	if _, err := serverfeatures.NewServerFeaturesClient(conn).GetSupportedMethods(t.Context(), &shared.Empty{}); err != nil {
		t.Errorf("features are anonymous: %v", err)
	}
	info, err := gossip.NewGossipClient(conn).Read(t.Context(), &shared.Empty{})
	if err != nil || fmt.Sprintf("%s:%d", info.GetMembers()[0].GetHttpEndPoint().GetAddress(), info.GetMembers()[0].GetHttpEndPoint().GetPort()) != addr {
		t.Errorf("gossip is anonymous: %v %v", info, err)
	}
	del := &streamspb.DeleteReq{Options: &streamspb.DeleteReq_Options{StreamIdentifier: &shared.StreamIdentifier{StreamName: []byte("s")},
		ExpectedStreamRevision: &streamspb.DeleteReq_Options_Any{}}}
	stubs := streamspb.NewStreamsClient(conn)
	for name, c := range map[string]struct {
		ctx  context.Context
		want codes.Code
	}{
		"nobody":         {t.Context(), codes.Unauthenticated},
		"unknown":        {as("eve", "secret"), codes.Unauthenticated},
		"unknown, empty": {as("eve", ""), codes.Unauthenticated},
		"wrong":          {as("ann", "guess"), codes.Unauthenticated},
		"empty":          {as("ann", ""), codes.Unauthenticated},
		"no Basic":       {metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer x"), codes.Unauthenticated},
		"right":          {as("ann", "secret"), codes.FailedPrecondition}, // the stream does not exist
	} {
		if _, err := stubs.Delete(c.ctx, del); status.Code(err) != c.want {
			t.Errorf("%s: %v", name, err)
		}
		call, err := stubs.Append(c.ctx)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := call.CloseAndRecv(); (status.Code(err) == codes.Unauthenticated) != (c.want == codes.Unauthenticated) {
			t.Errorf("%s, stream call: %v", name, err)
		}
	}
	for _, scheme := range []string{"esdb", "esdb+discover"} {
		client := officialClient(t, fmt.Sprintf("%s://admin:changeit@%s?tlsCAFile=%s", scheme, addr, cert))
		if _, err := client.AppendToStream(t.Context(), "s", esdb.AppendToStreamOptions{}, esdb.EventData{EventType: "T"}); err != nil {
			t.Errorf("official client, %s: %v", scheme, err)
		}
	}
}

func TestAccessControl(t *testing.T) {
	t.Parallel()
	_, _, as, conn := secure(t)
	w := &wire{T: t, stubs: streamspb.NewStreamsClient(conn)}
	admin, ann := as("admin", "changeit"), as("ann", "secret")
	w.ctx = admin
	w.append("open", expectAny, "a")
	w.append("closed", expectAny, "a")
	w.append("hers", expectAny, "a")
	w.setMetadata("closed", `{"$acl":{"$r":"boss","$w":["boss"],"$d":"boss","$mr":"$all","$mw":"boss"}}`)
	w.setMetadata("hers", `{"$acl":{"$r":"ann","$w":["boss","ann"]}}`)
	w.append("$sys", expectAny, "a")
	same(t, "admin", w.read("closed"), "closed/0=a")
	w.ctx = ann
	const denied = "rpc error: code = PermissionDenied desc = access is denied"
	same(t, "open", w.read("open"), "open/0=a")
	same(t, "closed", w.read("closed"), denied)
	same(t, "subscribe", w.read("closed", subscribing), denied)
	same(t, "metadata may be read", w.read("$$closed", count(0)), "")
	same(t, "hers", w.read("hers"), "hers/0=a")
	same(t, "system", w.read("$sys"), denied)
	same(t, "writes", []string{w.append("open", 0, "b").String(), w.append("closed", 0, "b").String(), w.append("$$closed", expectAny, "b").String(),
		w.append("hers", 0, "b").String(), w.append("$sys", 0, "b").String(), w.delete("closed", 0).String()},
		"ok(1) "+denied+" "+denied+" ok(1) "+denied+" "+denied)
}

// TestInsecureIsLoopbackOnly: without TLS nobody else may reach the node.
func TestInsecureIsLoopbackOnly(t *testing.T) {
	t.Parallel()
	n, err := Open(Config{Dir: "store", FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	lis, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	if err := n.Serve(lis); err == nil {
		t.Error("a node without TLS served all addresses")
	}
}

package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	personv1 "waymark/proto/waymark/person/v1"
)

// certificate writes a certificate that signs itself, and its key.
func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "waymark test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(t.TempDir(), "cert"), filepath.Join(t.TempDir(), "key")
	for file, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: encoded}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// TestClientTLS: a command reaches services that want a certificate, with one
// that they trust and not otherwise.
func TestClientTLS(t *testing.T) {
	t.Parallel()
	cert, key := certificate(t)
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pem, _ := os.ReadFile(cert)
	pool.AppendCertsFromPEM(pem)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert})))
	personv1.RegisterPersonServiceServer(server, &people{})
	go server.Serve(lis)
	t.Cleanup(server.Stop)
	call := []string{"call", "person.NoteMove", "person_id=" + somebody, "--grpc", lis.Addr().String(), "--timeout", "10s"}
	if _, stderr, code := waymark(t, "", append(call, "--tls-ca", cert, "--tls-cert", cert, "--tls-key", key)...); code != exitOK {
		t.Errorf("with a certificate: exit %d: %s", code, stderr)
	}
	stranger, strangerKey := certificate(t)
	for name, flags := range map[string][]string{
		"one that they do not trust": {"--tls-ca", cert, "--tls-cert", stranger, "--tls-key", strangerKey},
		"none":                       {"--tls-ca", cert},
		"services not trusted":       {"--tls-ca", stranger, "--tls-cert", cert, "--tls-key", key},
	} {
		if _, _, code := waymark(t, "", append(call, flags...)...); code != exitUnavailable {
			t.Errorf("%s: exit %d, want %d", name, code, exitUnavailable)
		}
	}
	if _, stderr, code := waymark(t, "", append(call, "--tls-cert", cert)...); code != exitUsage || !strings.Contains(stderr, "belong together") {
		t.Errorf("half a pair: exit %d: %s", code, stderr)
	}
}

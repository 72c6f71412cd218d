package feed

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	pb "waymark/proto/waymark/edge/v1"
	"waymark/services/edge"
	"waymark/services/kit/estest"
	"waymark/services/kit/mllp"
	"waymark/services/kit/run"
)

// authority signs certificates for one test.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t}
	a.cert, a.key, a.file = a.sign("authority", true)
	return a
}

// sign makes a certificate with its key and writes both to files of one name.
func (a *authority) sign(name string, isAuthority bool) (*x509.Certificate, *ecdsa.PrivateKey, string) {
	a.t.Helper()
	fatal := func(err error) {
		if err != nil {
			a.t.Fatal(err)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	fatal(err)
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	fatal(err)
	c := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: isAuthority, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	parent, signer := c, key
	if !isAuthority {
		parent, signer = a.cert, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	fatal(err)
	cert, err := x509.ParseCertificate(der)
	fatal(err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	fatal(err)
	file := filepath.Join(a.t.TempDir(), name)
	fatal(os.WriteFile(file+".pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	fatal(os.WriteFile(file+".key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600))
	return cert, key, file
}

// MLLP with the TLS of the configuration: a sender shows a certificate that the
// authority signed, or is not heard.
func TestTLS(t *testing.T) {
	t.Parallel()
	ours, others := newAuthority(t), newAuthority(t)
	_, _, server := ours.sign("server", false)
	_, _, client := ours.sign("client", false)
	_, _, stranger := others.sign("stranger", false)
	secure, err := run.Config{TLSCert: server + ".pem", TLSKey: server + ".key", TLSCA: ours.file + ".pem"}.ListenerTLS()
	if err != nil {
		t.Fatal(err)
	}
	h := open(t, estest.NewLog(), edge.ListenOptions{TLS: secure, First: 5 * time.Second})
	roots := x509.NewCertPool()
	roots.AddCert(ours.cert)
	send := func(certificate string) (string, error) {
		conf := &tls.Config{RootCAs: roots}
		if certificate != "" {
			pair, err := tls.LoadX509KeyPair(certificate+".pem", certificate+".key")
			if err != nil {
				t.Fatal(err)
			}
			conf.Certificates = []tls.Certificate{pair}
		}
		conn, err := tls.Dial("tcp", h.mllp, conf)
		if err != nil {
			return "", err
		}
		defer conn.Close()
		if _, err := conn.Write(mllp.Frame([]byte(adt("A28", "1", "")))); err != nil {
			return "", err
		}
		answer, err := mllp.Read(bufio.NewReader(conn), mllp.MaxMessage)
		return string(answer), err
	}
	if answer, err := send(client); err != nil || !strings.Contains(answer, "\rMSA|AA|1") {
		t.Errorf("with a certificate: %q, %v", answer, err)
	}
	for name, certificate := range map[string]string{"no certificate": "", "a stranger's certificate": stranger} {
		if answer, err := send(certificate); err == nil {
			t.Errorf("with %s: %q", name, answer)
		}
	}
	plain, r := h.connect(t)
	plain.Write(mllp.Frame([]byte(adt("A28", "2", ""))))
	if answer, err := mllp.Read(r, mllp.MaxMessage); err == nil {
		t.Errorf("without TLS: %q", answer)
	}
	if n := h.count(t, "MessageReceived"); n != 1 {
		t.Errorf("%d messages were kept, want that of the sender with a certificate", n)
	}
}

// live is the heap that is in use after a collection.
func live() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// A thousand senders that each begin a message of nearly the most bytes and stop,
// then go on past the bound. Those beyond the connections that are taken are
// closed; the others hold what the listener says they may, and no more. It does
// not run beside other tests: it measures the heap of the process.
func TestHalfOpen(t *testing.T) {
	const connections, most = 128, 128 * mllp.MaxMessage
	h := open(t, estest.NewLog(), edge.ListenOptions{Connections: connections, First: time.Minute, Frame: time.Minute})
	h.want(t, adt("A28", "0", ""), "AA", "")
	part := append([]byte{mllp.Start}, strings.Repeat("x", mllp.MaxMessage-1000)...)
	before := live()

	var mu sync.Mutex // guards open and closed
	var taken []net.Conn
	closed := 0
	ended := make(chan struct{}, 1000)
	var writing sync.WaitGroup
	for range 1000 {
		conn, err := net.Dial("tcp", h.mllp)
		if err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		taken = append(taken, conn)
		mu.Unlock()
		go func() { // reads nothing until the edge ends it
			_, err := conn.Read(make([]byte, 1))
			if errors.Is(err, io.EOF) || err != nil {
				mu.Lock()
				closed++
				mu.Unlock()
			}
			ended <- struct{}{}
		}()
	}
	t.Cleanup(func() {
		for _, c := range taken {
			c.Close()
		}
	})
	for range 1000 - connections {
		<-ended
	}
	if closed != 1000-connections {
		t.Fatalf("%d connections were closed, want all but %d", closed, connections)
	}
	for _, c := range taken {
		writing.Go(func() { c.Write(part) }) // most of them are closed: that is no matter here
	}
	writing.Wait()
	// All that was sent has been read when the edge holds it.
	deadline := time.Now().Add(30 * time.Second)
	var held, peak int64
	for still := 0; still < 5; {
		now := live() - before
		if peak = max(peak, now); now < connections*int64(len(part)) || max(now-held, held-now) > 64<<10 {
			still = 0
		} else {
			still++
		}
		if held = now; time.Now().After(deadline) {
			t.Fatalf("%d bytes are held of %d that were sent", held, connections*len(part))
		}
	}
	t.Logf("1000 connections, %d taken: %d KiB of heap each (%d while they grew), %d KiB sent", connections, held/connections>>10, peak/connections>>10, len(part)>>10)
	needs := int64(connections) * 16 << 10 // of a connection besides its message
	if bound := int64(most) + needs; held > bound {
		t.Errorf("%d MiB are held, the bound is %d MiB", held>>20, bound>>20)
	}
	if bound := int64(most)*2 + needs; peak > bound { // growing holds the bytes twice for a moment
		t.Errorf("%d MiB were held, the bound is %d MiB", peak>>20, bound>>20)
	}
	for _, c := range taken {
		go c.Write(part)
	}
	for range connections {
		<-ended // each is answered AR, as too large
	}
	deadline = time.Now().Add(30 * time.Second)
	for left := live() - before; left > 16<<20; left = live() - before {
		if time.Now().After(deadline) {
			t.Fatalf("%d MiB are still held", left>>20)
		}
	}
	h.take(t, adt("A31", "1", ""))
}

// What a sender asks for in MSH-15 and MSH-16 is what it gets.
func TestEnhancedMode(t *testing.T) {
	t.Parallel()
	h := open(t, estest.NewLog(), edge.ListenOptions{})
	for i, c := range []struct {
		accept, application string
		raw                 string
		want                string
	}{
		{"", "", adt("A28", "#", ""), "AA"},
		{"AL", "AL", adt("A31", "#", ""), "CA AA"},
		{"AL", "NE", adt("A31", "#", ""), "CA"},
		{"AL", "", adt("A31", "#", ""), "CA"},
		{"NE", "AL", adt("A31", "#", ""), "AA"},
		{"NE", "NE", adt("A31", "#", ""), ""},
		{"ER", "ER", adt("A31", "#", ""), ""},
		{"ER", "ER", strings.Replace(adt("A31", "#", ""), "19610504", "19611399", 1), "AE"},
		{"SU", "SU", strings.Replace(adt("A31", "#", ""), "19610504", "19611399", 1), "CA"},
		{"AL", "AL", adt("A98", "#", ""), "CR"},
		{"SU", "AL", adt("A98", "#", ""), ""},
	} {
		control := fmt.Sprint("e", i)
		raw := strings.Replace(c.raw, "|#|P|2.4", "|"+control+"|P|2.4|||"+c.accept+"|"+c.application, 1)
		var got []string
		r := h.take(t, raw)
		for _, a := range r.Answers {
			msa := strings.Split(strings.Split(string(a), "\rMSA|")[1], "|")
			got = append(got, msa[0])
			if strings.TrimRight(msa[1], "\r") != control {
				t.Errorf("%s: the acknowledgement is of %q", control, msa[1])
			}
		}
		if all := strings.Join(got, " "); all != c.want {
			t.Errorf("MSH-15 %q, MSH-16 %q: answered %q, want %q", c.accept, c.application, all, c.want)
		}
	}
}

// Numbers that a sender leaves out are listed until they come.
func TestGaps(t *testing.T) {
	t.Parallel()
	h := open(t, estest.NewLog(), edge.ListenOptions{})
	for i, n := range []string{"7", "8", "12", "10", "x", "", "20", "20", "3", "4"} {
		h.take(t, strings.Replace(adt("A31", fmt.Sprint("g", i), ""), "|P|2.4", "|P|2.4|"+n, 1))
	}
	r, err := h.edge.ListGaps(context.Background(), &pb.ListGapsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, g := range r.Gaps {
		got = append(got, fmt.Sprintf("%s/%s %d-%d", g.Facility, g.Application, g.First, g.Last))
	}
	if all := strings.Join(got, ", "); all != "RJ1/PAS 9-9, RJ1/PAS 11-11, RJ1/PAS 13-19" {
		t.Errorf("gaps: %s", all)
	}
}

// A batch is answered as one, and says when its counts are wrong.
func TestBatch(t *testing.T) {
	t.Parallel()
	h := open(t, estest.NewLog(), edge.ListenOptions{})
	conn, r := h.connect(t)
	ask := func(text string) string {
		t.Helper()
		conn.Write(mllp.Frame([]byte(text)))
		got, err := mllp.Read(r, mllp.MaxMessage)
		if err != nil {
			t.Fatal(err)
		}
		return string(got)
	}
	one, two := adt("A28", "b1", ""), strings.Replace(adt("A31", "b2", ""), "\r", "\r\n", 1) // mixed line ends
	got := ask("BHS|^~\\&|PAS|RJ1|WAYMARK|X26|20260601120000||||B17\r" + one + two + "BTS|2\r")
	if strings.Count(got, "\rMSA|AA|") != 2 || !strings.HasPrefix(got, "BHS|^~\\&|WAYMARK|X26|PAS|RJ1|") || !strings.HasSuffix(got, "\rBTS|2|\r") || !strings.Contains(strings.SplitN(got, "\r", 2)[0], "|B17") {
		t.Errorf("a batch: %q", got)
	}
	got = ask("FHS|^~\\&|PAS|RJ1\nBHS|^~\\&|PAS|RJ1\n" + adt("A31", "b3", "") + "BTS|5\nFTS|2\n")
	if !strings.Contains(got, "BTS-1 counts 5 messages, 1 came; FTS-1 counts 2 batches, 1 came") || strings.Count(got, "\rMSA|AA|") != 1 || !strings.HasSuffix(got, "\rFTS|1\r") {
		t.Errorf("a batch with wrong counts: %q", got)
	}
	// Other separators, and the truncation character of v2.7.
	got = ask(strings.NewReplacer("|^~\\&|", "$*%@!$", "|", "$", "^", "*", "~", "%").Replace(adt("A31", "b4", "")))
	if !strings.Contains(got, "\rMSA$AA$b4") {
		t.Errorf("other separators: %q", got)
	}
	if got = ask(strings.NewReplacer("|^~\\&|", "|^~\\&#|", "|P|2.4", "|P|2.7").Replace(adt("A31", "b5", ""))); !strings.Contains(got, "\rMSA|AA|b5") {
		t.Errorf("a truncation character: %q", got)
	}
}

// A trust that sends its name is known by it.
func TestFacilities(t *testing.T) {
	t.Parallel()
	h := openFor(t, estest.NewLog(), edge.ListenOptions{}, plainly, map[string]string{"ST ELSEWHERE": "RJ7"})
	r := h.want(t, strings.Replace(adt("A28", "1", ""), "|RJ1|", "|St Elsewhere^1.2^ISO|", 1), "AA", "")
	if r.Message.PersonId == "" {
		t.Errorf("%v", r.Message)
	}
	h.want(t, strings.Replace(adt("A28", "2", ""), "|RJ1|", "|St Nowhere|", 1), "AA", "edge.facility.unknown")
}

// Command conformance runs the own test suite of EventStore-Client-Go against
// our node and prints, as Markdown, what passed.
//
// Nothing is left out silently: a test that fails, skips itself or never runs
// makes the command fail, unless it stands with its reason in notApplicable.
package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"

	"waymark/services/eventstore"
)

// A round is one process of the suite with nodes of its own.
type round struct {
	name, pattern string
	tls           bool
}

var rounds = []round{
	{"streams", "^TestStreams$", false},
	{"streams, TLS", "^TestStreams$", true},
	{"persistent subscriptions", "^TestPersistentSubscriptions$", false},
	{"persistent subscriptions, TLS", "^TestPersistentSubscriptions$", true},
	{"read $all", "^TestExpectations$", false},
	{"offline", ".", false},
}

const (
	dataSet     = "asserts ids, dates and positions of a preset data set that only the vendor's image holds"
	projections = "the node runs no projections"
	cluster     = "the node is a single one"
	userCerts   = "needs the commercial user certificate plugin"
)

// notApplicable names each test that cannot apply, and why.
var notApplicable = map[string]string{
	"readStreamEventsForwardsFromZeroPosition":       dataSet,
	"readStreamEventsBackwardsFromEndPosition":       dataSet,
	"allSubscriptionWithFilterDeliversCorrectEvents": dataSet,
	"readAllEventsForwardsFromZeroPosition(":         dataSet,
	"readAllEventsForwardsFromNonZeroPosition":       dataSet,
	"readAllEventsBackwardsFromZeroPosition":         dataSet,
	"readAllEventsBackwardsFromNonZeroPosition":      dataSet,

	"createProjection":    projections,
	"deleteProjection":    projections,
	"updateProjection":    projections,
	"enableProjection":    projections,
	"disableProjection":   projections,
	"resetProjection":     projections,
	"getStateProjection":  projections,
	"getResultProjection": projections,

	"notLeaderExceptionButWorkAfterRetry": cluster,

	"ValidClientCertificatesTlsRelativePath":     userCerts,
	"ValidClientCertificatesTlsWithAbsolutePath": userCerts,
	"InvalidUserCertificates":                    userCerts,
	"MissingCertificateFile":                     userCerts,
}

// skipsInsecure are the tests that skip themselves without TLS; the TLS rounds run them.
var skipsInsecure = []string{"appendToSystemStreamWithIncorrectCredentials", "readStreamWithCredentialsOverride"}

func main() {
	services := flag.String("services", ".", "directory of the services module")
	write := flag.Bool("write", false, "write the table into eventstore/README.md, instead of comparing it")
	flag.Parse()
	table, passed, failed, err := run(*services)
	fmt.Println(table)
	if err == nil {
		err = publish(filepath.Join(*services, "eventstore/README.md"), table, *write)
	}
	if err != nil {
		fmt.Println("conformance:", err)
		failed = max(failed, 1)
	}
	fmt.Printf("%d passed, %d failed\n", passed, failed)
	if failed > 0 {
		os.Exit(1)
	}
}

func run(services string) (table string, passed, failed int, err error) {
	services, err = filepath.Abs(services)
	if err != nil {
		return "", 0, 0, err
	}
	dir, err := os.MkdirTemp("", "conformance")
	if err != nil {
		return "", 0, 0, err
	}
	defer os.RemoveAll(dir)
	s, err := buildSuite(services, dir)
	if err != nil {
		return "", 0, 0, err
	}
	certs, err := writeCertificates(filepath.Join(s.dir, "certs"))
	if err != nil {
		return "", 0, 0, err
	}

	results := make([][]result, len(rounds))
	errs := make([]error, len(rounds))
	var wg sync.WaitGroup
	for i, r := range rounds {
		wg.Go(func() {
			results[i], errs[i] = runRound(s, r, certs, filepath.Join(dir, fmt.Sprint("round", i)))
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return "", 0, 0, err
	}
	return report(s.declared, results)
}

// certificates of the nodes: PEM files.
type certificates struct{ cert, key string }

func runRound(s *suite, r round, certs certificates, dir string) ([]result, error) {
	environ := []string{fmt.Sprint("EVENTSTORE_INSECURE=", !r.tls)}
	for _, variable := range []string{"CONFORMANCE_EMPTY", "CONFORMANCE_SEEDED"} {
		cfg := eventstore.Config{Dir: filepath.Join(dir, variable)}
		if r.tls {
			cfg.TLSCert, cfg.TLSKey = certs.cert, certs.key
			cfg.Users = map[string]string{"admin": "changeit"}
		}
		node, err := eventstore.Open(cfg)
		if err != nil {
			return nil, err
		}
		lis, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		served := make(chan error, 1)
		go func() { served <- node.Serve(lis) }()
		defer func() { node.Close(); <-served }()
		if variable == "CONFORMANCE_SEEDED" {
			if err := seed(lis.Addr().String(), r.tls); err != nil {
				return nil, fmt.Errorf("seed: %w", err)
			}
		}
		environ = append(environ, variable+"="+lis.Addr().String())
	}
	var skip []string
	for name := range notApplicable {
		skip = append(skip, regexp.QuoteMeta(name))
	}
	pattern := "/.*/^(" + strings.Join(skip, "|") + ")$"
	if r.name == "offline" {
		pattern = "^(TestStreams|TestPersistentSubscriptions|TestExpectations|TestProjections|TestPlugins)$"
	}
	return s.run(r.pattern, pattern, environ...)
}

// seed writes the 6,000 events of stream dataset20M-0 that some tests read.
func seed(address string, tls bool) error {
	connection := "esdb://" + address + "?tls=false"
	if tls {
		connection = "esdb://admin:changeit@" + address + "?tlsverifycert=false"
	}
	config, err := esdb.ParseConnectionString(connection)
	if err != nil {
		return err
	}
	config.Logger = esdb.NoopLogging()
	client, err := esdb.NewClient(config)
	if err != nil {
		return err
	}
	defer client.Close()
	for n := 0; n < 6000; n += 500 {
		events := make([]esdb.EventData, 500)
		for i := range events {
			events[i] = esdb.EventData{
				EventType:   fmt.Sprint("eventType-", n+i),
				ContentType: esdb.ContentTypeJson,
				Data:        fmt.Appendf(nil, `{"n":%d}`, n+i),
			}
		}
		if _, err := client.AppendToStream(context.Background(), "dataset20M-0", esdb.AppendToStreamOptions{}, events...); err != nil {
			return err
		}
	}
	return nil
}

// writeCertificates makes the folders that the suite expects beside its own:
// a node certificate that verifies as its own root, and a stranger's.
func writeCertificates(dir string) (certificates, error) {
	certs := certificates{cert: filepath.Join(dir, "node/node.crt"), key: filepath.Join(dir, "node/node.key")}
	err := writeCertificate(certs.cert, certs.key)
	if err == nil {
		err = writeCertificate(filepath.Join(dir, "untrusted-ca/ca.crt"), filepath.Join(dir, "untrusted-ca/ca.key"))
	}
	return certs, err
}

func writeCertificate(certFile, keyFile string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: filepath.Base(filepath.Dir(certFile))},
		NotBefore:             time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:              time.Date(2120, 1, 1, 0, 0, 0, 0, time.UTC),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IsCA:                  true,
		BasicConstraintsValid: true,
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(certFile), 0o755); err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644),
		os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600))
}

// report makes the table, and an error that names all that failed or is missing.
func report(declared []string, results [][]result) (table string, passed, failed int, _ error) {
	var b strings.Builder
	var wrong []error
	ran := map[string]bool{}
	fmt.Fprintf(&b, "%s %s, its own test suite:\n\n| Tests | Group | Passed | Failed |\n|---|---|---|---|\n", module, version)
	for i, rs := range results {
		groups := map[string][2]int{}
		for _, r := range rs {
			path := strings.Split(r.Test, "/")
			group, name := "of types and connection strings", path[len(path)-1]
			if len(path) > 2 {
				group = path[1]
			}
			count := groups[group]
			switch {
			case r.Action == "pass":
				ran[name] = true
				count[0]++
				passed++
			case r.Action == "skip" && !rounds[i].tls && slices.Contains(skipsInsecure, name):
			default:
				ran[name] = true
				count[1]++
				failed++
				wrong = append(wrong, fmt.Errorf("%s (%s): %s\n%s", r.Test, rounds[i].name, r.Action, r.Output))
			}
			groups[group] = count
		}
		for _, group := range slices.Sorted(maps.Keys(groups)) {
			fmt.Fprintf(&b, "| %s | %s | %d | %d |\n", rounds[i].name, group, groups[group][0], groups[group][1])
		}
	}
	fmt.Fprintf(&b, "| **all** | | **%d** | **%d** |\n\n", passed, failed)
	fmt.Fprintf(&b, "These skip themselves without TLS and run with it: `%s`. Not applicable, by name:\n\n", strings.Join(skipsInsecure, "`, `"))
	byReason := map[string][]string{}
	for _, name := range slices.Compact(slices.Sorted(slices.Values(declared))) {
		if reason, ok := notApplicable[name]; ok {
			byReason[reason] = append(byReason[reason], "`"+strings.TrimSuffix(name, "(")+"`")
		} else if !ran[name] {
			wrong = append(wrong, fmt.Errorf("%s: never ran", name))
		}
	}
	for _, reason := range slices.Sorted(maps.Keys(byReason)) {
		fmt.Fprintf(&b, "* %d (%s): %s.\n", len(byReason[reason]), reason, strings.Join(byReason[reason], ", "))
	}
	return b.String(), passed, failed, errors.Join(wrong...)
}

// publish writes the table between the marks of a file, or fails when another
// one stands there.
func publish(file, table string, write bool) error {
	const begin, end = "<!-- conformance: begin -->\n", "<!-- conformance: end -->"
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	head, rest, ok := strings.Cut(string(b), begin)
	old, tail, ok2 := strings.Cut(rest, end)
	switch {
	case !ok || !ok2:
		return fmt.Errorf("%s has no conformance marks", file)
	case old == table:
		return nil
	case !write:
		return fmt.Errorf("%s has another table: run make conformance ARGS=-write", file)
	}
	return os.WriteFile(file, []byte(head+begin+table+end+tail), 0o644)
}

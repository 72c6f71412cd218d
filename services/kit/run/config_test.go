package run

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

func flagsOf(cfg *Config) *pflag.FlagSet {
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	Bind(flags, cfg)
	return flags
}

func TestFlagWinsOverEnvironmentOverDefault(t *testing.T) {
	var cfg Config
	flags := flagsOf(&cfg)
	if err := flags.Parse([]string{"--in-flight=7"}); err != nil {
		t.Fatal(err)
	}
	if err := Environ(flags, []string{"WAYMARK_IN_FLIGHT=9", "WAYMARK_DRAIN=3s", "WAYMARK_PEERS=a=b:1,c:2", "HOME=/", "WAYMARK_DATA=x"}, "data"); err != nil {
		t.Fatal(err)
	}
	if cfg.InFlight != 7 || cfg.Drain != 3*time.Second || cfg.HealthEvery != 2*time.Second || len(cfg.Peers) != 2 {
		t.Errorf("got %+v", cfg)
	}
}

func TestUnknownNamesAreRefusedWithTheNearest(t *testing.T) {
	for _, c := range []struct {
		args, environ []string
		want          string
	}{
		{args: []string{"--log-levle=info"}, want: "did you mean --log-level?"},
		{environ: []string{"WAYMARK_LOG_LEVELS=info"}, want: "WAYMARK_LOG_LEVELS; did you mean WAYMARK_LOG_LEVEL?"},
		{environ: []string{"WAYMARK_LOG-LEVEL=info"}, want: "did you mean WAYMARK_LOG_LEVEL?"},
		{environ: []string{"WAYMARK_DRAIN=soon"}, want: "WAYMARK_DRAIN: invalid argument"},
	} {
		var cfg Config
		flags := flagsOf(&cfg)
		err := FlagError(flags, flags.Parse(c.args))
		if err == nil {
			err = Environ(flags, c.environ)
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v %v: got %v, want %q", c.args, c.environ, err, c.want)
		}
	}
}

func TestZeroConfigIsTheDefault(t *testing.T) {
	var bound Config
	flagsOf(&bound)
	zero := Config{}.WithDefaults()
	if err := zero.check(); err != nil {
		t.Error(err)
	}
	if zero.GRPC != bound.GRPC || zero.DeadlineCap != bound.DeadlineCap {
		t.Errorf("zero value %+v, flags %+v", zero, bound)
	}
}

func TestConfigRefusesSecretsAndContradictions(t *testing.T) {
	for want, change := range map[string]func(*Config){
		"--eventstore-auth-file": func(c *Config) { c.EventStore = "esdb://admin:changeit@db:2113" },
		"--nats-creds-file":      func(c *Config) { c.NATS = "nats://a:1,nats://s3cret@b:1" },
		"belong together":        func(c *Config) { c.TLSCert = "x" },
		"--tls-ca needs":         func(c *Config) { c.TLSCA = "x" },
		"--grpc 0.0.0.0:7400":    func(c *Config) { c.GRPC = "0.0.0.0:7400" },
		"--peers person=db:1":    func(c *Config) { c.Peers = []string{"127.0.0.1:2", "person=db:1"} },
		"--log-level":            func(c *Config) { c.LogLevel = "loud" },
		"--log-format":           func(c *Config) { c.LogFormat = "xml" },
		"--in-flight":            func(c *Config) { c.InFlight = -1 },
	} {
		cfg := Config{}.WithDefaults()
		change(&cfg)
		err := cfg.check()
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "changeit") || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: got %v", want, err)
		}
	}
}

func TestReferenceRedacts(t *testing.T) {
	var cfg Config
	flags := flagsOf(&cfg)
	if err := flags.Parse([]string{"--nats=nats://bob:hunter2@n:4222,nats://n2:4222"}); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := Reference(&out, flags); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out.String(), "hunter2") || !strings.Contains(out.String(), "WAYMARK_KEY_FILE") || !strings.Contains(out.String(), "10s") {
		t.Errorf("reference:\n%s", out.String())
	}
}

func TestPeers(t *testing.T) {
	cfg := Config{Peers: []string{"person=10.0.0.1:1", "dns:///{service}:7400"}}
	if a, b := cfg.Peer("person"), cfg.Peer("plan"); a != "10.0.0.1:1" || b != "dns:///plan:7400" {
		t.Errorf("got %s and %s", a, b)
	}
}

func TestReadKey(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	for text, ok := range map[string]bool{
		strings.Repeat("0a", 32) + "\n":                true,
		"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=": true,
		"short": false,
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if key, err := ReadKey(file); (err == nil) != ok || ok && len(key) != 32 {
			t.Errorf("%q: %d bytes, %v", text, len(key), err)
		}
	}
}

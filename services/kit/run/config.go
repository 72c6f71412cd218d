package run

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/pflag"
)

// EnvPrefix begins the name of every environment variable that Waymark reads:
// --log-level is WAYMARK_LOG_LEVEL. OpenTelemetry's own OTEL_* are read as its
// specification says.
const EnvPrefix = "WAYMARK_"

// Config is everything that a process of services can be told. The zero value
// works: a zero field means its default. A flag wins over the environment, the
// environment over the default. Secrets are named by file, never given here.
type Config struct {
	GRPC           string        `flag:"grpc" default:"127.0.0.1:7400" help:"address to serve gRPC on"`
	HTTP           string        `flag:"http" default:"127.0.0.1:7480" help:"address to serve /metrics, /healthz and /readyz on; never patient data, so without TLS"`
	MLLP           string        `flag:"mllp" help:"address to take HL7 v2 messages on, over MLLP, with the TLS of gRPC; empty takes none"`
	Facilities     []string      `flag:"facility" help:"the ODS code of a sending facility (HL7 MSH-4) that sends a name instead, as NAME=ODS; several, comma separated"`
	FHIR           string        `flag:"fhir" help:"address to answer FHIR R4 on, over HTTP, with the TLS of gRPC; empty answers none"`
	NHSAppHide     []string      `flag:"nhs-app-hide" help:"what the NHS App is not shown: site:ODS or tfc:CODE (a treatment function); several, comma separated"`
	EventStore     string        `flag:"eventstore" default:"esdb://127.0.0.1:2113?tls=false" help:"connection string of the event store, without credentials"`
	EventStoreAuth string        `flag:"eventstore-auth-file" help:"file with user:password of the event store"`
	NATS           string        `flag:"nats" default:"nats://127.0.0.1:4222" help:"NATS servers, comma separated, without credentials"`
	NATSCreds      string        `flag:"nats-creds-file" help:"NATS credentials file"`
	Peers          []string      `flag:"peers" help:"where other services answer: name=address for one of them, an address alone for all others, {service} in it stands for the name; none means in this process"`
	Models         string        `flag:"models" help:"folder of what a service can make again from the log, such as the read models of pathway, so that a start goes on where it stood; one process each; empty keeps it in memory"`
	KeyFile        string        `flag:"key-file" help:"file with the 32-byte key of identifier hashes, in hex or base64; the same for every process, for ever"`
	TLSCert        string        `flag:"tls-cert" help:"PEM certificate of the gRPC server, and of its calls to other services"`
	TLSKey         string        `flag:"tls-key" help:"PEM file with the key of --tls-cert"`
	TLSCA          string        `flag:"tls-ca" help:"PEM certificates that sign other services: callers must show one, and are called with TLS"`
	Insecure       bool          `flag:"insecure" help:"allow gRPC without TLS to and from other machines, for instance inside a service mesh"`
	Reflection     bool          `flag:"reflection" help:"serve gRPC reflection"`
	LogLevel       string        `flag:"log-level" default:"info" help:"debug, info, warn or error"`
	LogFormat      string        `flag:"log-format" default:"json" help:"json or text"`
	Environment    string        `flag:"environment" help:"the deployment, for example live: in the source of events and in telemetry"`
	InFlight       int           `flag:"in-flight" default:"96" help:"calls in progress, and a quarter of the streams, before more are refused with RESOURCE_EXHAUSTED"`
	DeadlineCap    time.Duration `flag:"deadline-cap" default:"10s" help:"longest time a call may take, whatever its caller allows"`
	HealthEvery    time.Duration `flag:"health-every" default:"2s" help:"time between two health checks"`
	Drain          time.Duration `flag:"drain" default:"1s" help:"time between turning NOT_SERVING and refusing calls: one interval of the load balancer"`
}

// WithDefaults returns c with the default in each zero field.
func (c Config) WithDefaults() Config {
	fields(&c, func(name, value, help string, field reflect.Value) {
		if field.IsZero() && value != "" {
			set(field, value)
		}
	})
	return c
}

// Bind adds a flag to flags for each field of config (a pointer to a struct
// with `flag`, `default` and `help` tags like Config's) and gives zero fields
// their default.
func Bind(flags *pflag.FlagSet, config any) {
	fields(config, func(name, value, help string, field reflect.Value) {
		if field.IsZero() && value != "" {
			set(field, value)
		}
		help += " [$" + envOf(name) + "]"
		switch p := field.Addr().Interface().(type) {
		case *string:
			flags.StringVar(p, name, *p, help)
		case *bool:
			flags.BoolVar(p, name, *p, help)
		case *int:
			flags.IntVar(p, name, *p, help)
		case *time.Duration:
			flags.DurationVar(p, name, *p, help)
		case *[]string:
			flags.StringSliceVar(p, name, *p, help)
		default:
			panic("run: no flag can be made of " + field.Type().String())
		}
	})
}

// Environ gives each flag of flags that the command line left out the value of
// its WAYMARK_ variable in environ (as of os.Environ). A WAYMARK_ variable that
// is no flag of flags, nor in others (the flags of other commands, so that one
// environment can serve several), is refused. All errors come at once.
func Environ(flags *pflag.FlagSet, environ []string, others ...string) error {
	var errs []error
	for _, entry := range environ {
		env, value, _ := strings.Cut(entry, "=")
		if !strings.HasPrefix(env, EnvPrefix) {
			continue
		}
		name := strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(env, EnvPrefix)), "_", "-")
		flag := flags.Lookup(name)
		switch {
		case env != envOf(name) || flag == nil && !slices.Contains(others, name):
			errs = append(errs, fmt.Errorf("unknown environment variable %s; did you mean %s?", env, envOf(nearest(name, append(names(flags), others...)))))
		case flag != nil && !flag.Changed:
			if err := flags.Set(name, value); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", env, err))
			}
		}
	}
	return errors.Join(errs...)
}

// FlagError adds the nearest known flag to the error of an unknown one; every
// other error is returned as it is.
func FlagError(flags *pflag.FlagSet, err error) error {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) || unknown.GetSpecifiedName() == "" {
		return err
	}
	return fmt.Errorf("%w; did you mean --%s?", err, nearest(unknown.GetSpecifiedName(), names(flags)))
}

// Reference prints every flag with its variable, its value now, its default and
// its meaning. Credentials in an address are masked.
func Reference(w io.Writer, flags *pflag.FlagSet) error {
	tab := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tab, "FLAG\tENVIRONMENT\tVALUE\tDEFAULT\tMEANING")
	flags.VisitAll(func(f *pflag.Flag) {
		meaning := strings.TrimSuffix(f.Usage, " [$"+envOf(f.Name)+"]")
		fmt.Fprintf(tab, "--%s\t%s\t%s\t%s\t%s\n", f.Name, envOf(f.Name), redact(f.Value.String()), redact(f.DefValue), meaning)
	})
	return tab.Flush()
}

// check refuses a configuration that contradicts itself or holds a secret.
func (c Config) check() error {
	var errs []error
	refuse := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if redact(c.EventStore) != c.EventStore {
		refuse("--eventstore holds credentials: put them in a file and name it in --eventstore-auth-file")
	}
	if redact(c.NATS) != c.NATS {
		refuse("--nats holds credentials: put them in a file and name it in --nats-creds-file")
	}
	if (c.TLSCert == "") != (c.TLSKey == "") {
		refuse("--tls-cert and --tls-key belong together")
	}
	if c.TLSCA != "" && c.TLSCert == "" {
		refuse("--tls-ca needs --tls-cert and --tls-key")
	}
	if c.TLSCert == "" && !c.Insecure && !loopback(c.GRPC) {
		refuse("--grpc %s is not loopback: give --tls-cert and --tls-key, or --insecure where something else encrypts", c.GRPC)
	}
	if c.MLLP != "" && c.TLSCert == "" && !c.Insecure && !loopback(c.MLLP) {
		refuse("--mllp %s is not loopback: give --tls-cert and --tls-key, or --insecure where something else encrypts", c.MLLP)
	}
	if c.FHIR != "" && c.TLSCert == "" && !c.Insecure && !loopback(c.FHIR) {
		refuse("--fhir %s is not loopback: give --tls-cert and --tls-key, or --insecure where something else encrypts", c.FHIR)
	}
	for _, p := range c.Peers {
		_, address, named := strings.Cut(p, "=")
		if !named {
			address = p
		}
		if c.TLSCA == "" && !c.Insecure && !loopback(address) {
			refuse("--peers %s is not loopback: give --tls-ca, or --insecure where something else encrypts", p)
		}
	}
	for _, f := range c.Facilities {
		if name, ods, ok := strings.Cut(f, "="); !ok || strings.TrimSpace(name) == "" || !odsCode.MatchString(ods) {
			refuse("--facility %s is not NAME=ODS, for example GHH=RJ1", f)
		}
	}
	if _, err := level(c.LogLevel); err != nil {
		refuse("--log-level: %w", err)
	}
	if c.LogFormat != "json" && c.LogFormat != "text" {
		refuse("--log-format is json or text")
	}
	if c.InFlight < 1 || c.DeadlineCap < minRemaining || c.HealthEvery <= 0 || c.Drain < 0 {
		refuse("--in-flight must be 1 or more, --deadline-cap %s or more, --health-every more than 0, --drain not negative", minRemaining)
	}
	return errors.Join(errs...)
}

var odsCode = regexp.MustCompile(`^[A-Z0-9]{3,10}$`)

// facilities returns the ODS codes of --facility by their names, in capitals.
func (c Config) facilities() map[string]string {
	codes := map[string]string{}
	for _, f := range c.Facilities {
		name, ods, _ := strings.Cut(f, "=")
		codes[strings.ToUpper(strings.TrimSpace(name))] = ods
	}
	return codes
}

// Peer returns the address at which the named service answers, "" when none is known.
func (c Config) Peer(service string) string {
	other := ""
	for _, p := range c.Peers {
		name, address, named := strings.Cut(p, "=")
		if named && name == service {
			return address
		}
		if !named {
			other = p
		}
	}
	return strings.ReplaceAll(other, "{service}", service)
}

// EventStoreURL returns the connection string with the credentials of
// --eventstore-auth-file in it. It is for the client alone: never log it.
func (c Config) EventStoreURL() (string, error) {
	if c.EventStoreAuth == "" {
		return c.EventStore, nil
	}
	text, err := os.ReadFile(c.EventStoreAuth)
	if err != nil {
		return "", err
	}
	user, password, ok := strings.Cut(strings.TrimSpace(string(text)), ":")
	scheme, rest, isURL := strings.Cut(c.EventStore, "://")
	if !ok || !isURL {
		return "", errors.New("--eventstore-auth-file holds user:password, --eventstore is esdb://host:port")
	}
	return scheme + "://" + url.UserPassword(user, password).String() + "@" + rest, nil
}

// ReadKey reads a 32-byte key in hex or base64 from a file.
func ReadKey(path string) ([]byte, error) {
	if path == "" {
		return nil, errors.New("no key: give --key-file")
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	trimmed := strings.TrimSpace(string(text))
	for _, decode := range []func(string) ([]byte, error){hex.DecodeString, base64.StdEncoding.DecodeString} {
		if key, err := decode(trimmed); err == nil && len(key) == 32 {
			return key, nil
		}
	}
	return nil, fmt.Errorf("%s holds no key of 32 bytes in hex or base64", path)
}

func fields(config any, visit func(name, value, help string, field reflect.Value)) {
	v := reflect.ValueOf(config).Elem()
	for i := range v.NumField() {
		tag := v.Type().Field(i).Tag
		if name := tag.Get("flag"); name != "" {
			visit(name, tag.Get("default"), tag.Get("help"), v.Field(i))
		}
	}
}

// set writes a default. A default that does not parse is a mistake in the
// struct, found by the first test that runs.
func set(field reflect.Value, value string) {
	flags := pflag.NewFlagSet("", pflag.PanicOnError)
	switch p := field.Addr().Interface().(type) {
	case *string:
		*p = value
	case *bool:
		flags.BoolVar(p, "v", false, "")
	case *int:
		flags.IntVar(p, "v", 0, "")
	case *time.Duration:
		flags.DurationVar(p, "v", 0, "")
	case *[]string:
		flags.StringSliceVar(p, "v", nil, "")
	}
	if flags.Lookup("v") != nil {
		if err := flags.Set("v", value); err != nil {
			panic(err)
		}
	}
}

func envOf(name string) string {
	return EnvPrefix + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}

func names(flags *pflag.FlagSet) (all []string) {
	flags.VisitAll(func(f *pflag.Flag) { all = append(all, f.Name) })
	return all
}

// nearest returns the known name with the fewest edits from name.
func nearest(name string, known []string) string {
	best, least := "", -1
	for _, k := range known {
		if d := edits(name, k); least < 0 || d < least {
			best, least = k, d
		}
	}
	return best
}

// edits is the Levenshtein distance.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// redact masks the user part of each address in a comma-separated list.
func redact(list string) string {
	parts := strings.Split(list, ",")
	for i, p := range parts {
		if u, err := url.Parse(strings.Trim(p, "[] ")); err == nil && u.User != nil {
			u.User = url.User("***")
			parts[i] = u.String()
		} else if at := strings.LastIndex(p, "@"); strings.Contains(p, "://") && at >= 0 {
			parts[i] = "***" + p[at:]
		}
	}
	return strings.Join(parts, ",")
}

func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Package archtest holds the rules between the rooms of the house, and one test
// that enforces them. It parses the source itself: a test that asks `go list`
// is cached by go test and stays green when the answer changes.
//
// A rule about nothing fails: a listed room without files, a driver nobody
// imports, a rule without a planted violation in testdata/planted.txt.
package archtest

// kind is what a room is for; it decides what the room may import.
type kind string

const (
	kit      kind = "kit"      // what all services use
	service  kind = "service"  // owns streams, answers RPCs
	values   kind = "values"   // kit without I/O
	pure     kind = "pure"     // rules as data, without I/O
	node     kind = "node"     // the embedded event store
	assembly kind = "assembly" // the one list of constructors
	program  kind = "program"  // cmd
	harness  kind = "harness"  // whole-system tests and benchmarks
	rules    kind = "rules"    // this package

	contracts kind = "contracts" // waymark/proto: a module of its own, not a room here
)

// mayImport says which kinds of rooms a kind may import; a room may always
// import itself. Kinds are as of package files; inTests adds to it for _test files.
var (
	mayImport = map[kind][]kind{
		values:   {values},
		kit:      {contracts, values, kit},
		service:  {contracts, values, kit, pure},
		pure:     {contracts, values, pure},
		node:     {},
		assembly: {contracts, values, kit, service, node},
		program:  {contracts, values, kit, pure, assembly, node, harness},
		harness:  {contracts, values, kit, service, pure, node, assembly},
		rules:    {},
	}
	inTests = map[kind][]kind{
		kit:      {node},
		service:  {node},
		assembly: {program},
		node:     {contracts, values, kit}, // the suite of es.Log runs against the node
	}
)

// rooms are the folders of services that may hold packages. Subfolders belong
// to their room unless they are one themselves. A new room is a line here: say what it is for before it grows.
var rooms = map[string]kind{
	"allinone":               assembly,
	"appointment":            service,
	"archtest":               rules,
	"bench":                  harness,
	"carelead":               service,
	"cmd":                    program,
	"cohort":                 pure,
	"e2e":                    harness,
	"edge":                   service,
	"edge/feed":              harness,
	"edge/fhir":              values,
	"eventstore":             node,
	"eventstore/conformance": harness,
	"kit/bus":                kit,
	"kit/es":                 kit,
	"kit/estest":             kit,
	"kit/fault":              values,
	"kit/mllp":               values,
	"kit/nhs":                values,
	"kit/planted":            values,
	"kit/run":                kit,
	"kit/runtest":            kit,
	"pathway":                service,
	"person":                 service,
	"plan":                   service,
	"referral":               service,
	"sim":                    harness,
	"waitingtimes":           pure,
}

// driver is third-party code that only some rooms may know.
type driver struct {
	path  string   // import path prefix
	in    []string // rooms whose package files may import it
	tests []string // rooms whose tests may, besides
}

var drivers = []driver{
	// The node implements the server side of the protocol that the client's module carries.
	{"github.com/EventStore/EventStore-Client-Go/v4/protos", []string{"kit/es", "eventstore", "bench", "sim"}, nil},
	{"github.com/EventStore/EventStore-Client-Go", []string{"kit/es", "eventstore/conformance", "bench"}, []string{"eventstore"}},
	{"github.com/cockroachdb/pebble", []string{"eventstore", "pathway", "edge", "bench", "sim"}, nil},
	{"github.com/nats-io/nats.go", []string{"kit/bus", "kit/run", "allinone", "cmd", "sim"}, nil},
	{"github.com/nats-io/nats-server", []string{"allinone", "sim"}, []string{"kit/bus", "kit/run"}},
	{"github.com/spf13/cobra", []string{"cmd"}, nil},
	{"go.opentelemetry.io/otel/sdk", []string{"kit/run"}, nil},
	{"go.opentelemetry.io/otel/exporters", []string{"kit/run"}, nil},
}

// clocks are the rooms that may read the machine's time; all others are given a
// clock, so that any clock works. The node stands for a server of another
// make, which has a clock of its own; its tests give it theirs. The clock of the
// simulation is the machine's, which a bubble stands in for.
var clocks = []string{"kit/run", "cmd", "eventstore", "sim"}

// testOnly are packages that nothing but tests and test kits may import.
var testOnly = []string{"testing", "waymark/services/kit/estest", "waymark/services/kit/runtest", "pgregory.net/rapid"}

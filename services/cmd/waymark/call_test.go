package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	personv1 "waymark/proto/waymark/person/v1"
	"waymark/services/kit/fault"
)

// people is a person service that remembers the last request and answers as told.
type people struct {
	personv1.UnimplementedPersonServiceServer
	last  *personv1.NoteMoveRequest
	reply error
}

func (p *people) NoteMove(_ context.Context, r *personv1.NoteMoveRequest) (*personv1.PersonReply, error) {
	p.last = r
	if p.reply != nil {
		return nil, p.reply
	}
	return &personv1.PersonReply{Person: &personv1.Person{PersonId: r.PersonId}}, nil
}

// serve starts the service on a free port and returns its address.
func (p *people) serve(t *testing.T) string {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	personv1.RegisterPersonServiceServer(server, p)
	go server.Serve(lis)
	t.Cleanup(server.Stop)
	return lis.Addr().String()
}

// waymark runs one command line and returns what it printed and its exit code.
func waymark(t *testing.T, stdin string, args ...string) (out, err string, code int) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code = newCLI(strings.NewReader(stdin), &stdout, &stderr, nil).execute(t.Context(), args)
	return stdout.String(), stderr.String(), code
}

const somebody = "5a3f6c1e-8f0a-4a51-9d5e-0c8f4b8d7a11"

func TestCallFillsTheCommandHeader(t *testing.T) {
	t.Parallel()
	p := &people{}
	at := p.serve(t)
	out, err, code := waymark(t, "", "call", "person.NoteMove", "person_id="+somebody, "--grpc", at)
	if code != exitOK {
		t.Fatalf("exit %d: %s", code, err)
	}
	command := p.last.Command
	if command.GetCommandId() == "" || !strings.Contains(err, "command_id: "+command.GetCommandId()) {
		t.Errorf("command id %q, stderr %q", command.GetCommandId(), err)
	}
	if command.GetActor().GetUser() != "waymark-cli" || command.GetActor().GetOrganisation() != "RJ1" {
		t.Errorf("actor %v", command.GetActor())
	}
	var reply struct {
		Person struct {
			PersonID string `json:"person_id"`
		}
	}
	if e := json.Unmarshal([]byte(out), &reply); e != nil || reply.Person.PersonID != somebody {
		t.Errorf("stdout %q: %v", out, e)
	}

	const id = "0b9f4f5e-2a2b-4c53-8a53-2f5b7f0a9c10"
	_, err, code = waymark(t, `{"person_id":"`+somebody+`","command":{"actor":{"organisation":"RRV"},"reason":"in data"}}`, "call", "NoteMove", "-d", "-",
		"--grpc", at, "--command-id", id, "--user", "555000111", "--role", "R0600", "--reason", "by flag", "command.purpose=BTG")
	command = p.last.Command
	if code != exitOK || command.CommandId != id || command.Actor.Organisation != "RRV" || command.Actor.User != "555000111" ||
		command.Actor.RoleCode != "R0600" || command.Reason != "in data" || command.Purpose != "BTG" {
		t.Errorf("exit %d, header %v, stderr %q", code, command, err)
	}
}

func TestCallPrintsOneField(t *testing.T) {
	t.Parallel()
	at := (&people{}).serve(t)
	out, err, code := waymark(t, "", "call", "person.NoteMove", "person_id="+somebody, "--grpc", at, "--field", "person.person_id", "-q")
	if code != exitOK || out != somebody+"\n" || err != "" {
		t.Errorf("exit %d, stdout %q, stderr %q", code, out, err)
	}
	_, err, code = waymark(t, "", "call", "person.NoteMove", "person_id="+somebody, "--grpc", at, "--field", "person.nonsense")
	if code != exitUsage || !strings.Contains(err, "person_id") {
		t.Errorf("exit %d, stderr %q", code, err)
	}
}

func TestCallNeedsAnActorElsewhere(t *testing.T) {
	t.Parallel()
	_, err, code := waymark(t, "", "call", "person.NoteMove", "person_id="+somebody, "--grpc", "waymark.example:7400")
	if code != exitUsage || !strings.Contains(err, "--organisation") {
		t.Errorf("exit %d, stderr %q", code, err)
	}
}

// TestExitCodes walks through every kind of answer of a service.
func TestExitCodes(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name  string
		reply error
		want  int
		says  []string
	}{
		{"invalid", fault.InvalidFields("person.move.invalid", fault.Field{Path: "on", Text: "must be a date"}), exitUsage,
			[]string{"INVALID_ARGUMENT person.move.invalid", "  on: must be a date", "next: waymark call --describe person.NoteMove"}},
		{"not found", fault.NotFound("person.unknown", "there is no such person"), exitNotFound, []string{"NOT_FOUND person.unknown: there is no such person"}},
		{"refused", fault.Refused("person.dead", "the person has died"), exitConflict, []string{"FAILED_PRECONDITION person.dead", "next: read the record"}},
		{"exists", fault.Exists("person.exists", "is there already"), exitConflict, []string{"ALREADY_EXISTS"}},
		{"race", fault.Aborted("command.contended", "lost too many races"), exitConflict, []string{"ABORTED", "next: repeat it with --command-id"}},
		{"full", fault.Exhausted("log.full", "no room", 1e9), exitUnavailable, []string{"RESOURCE_EXHAUSTED log.full", "it may work in 1s", "--command-id"}},
		{"damaged", status.Error(codes.DataLoss, "chain broken"), exitVerification, []string{"DATA_LOSS chain broken"}},
		{"denied", fault.Denied("access.denied", "not you"), exitError, []string{"PERMISSION_DENIED access.denied"}},
		{"internal", errors.New("secret"), exitError, []string{"UNKNOWN"}},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			at := (&people{reply: tc.reply}).serve(t)
			out, err, code := waymark(t, "", "call", "person.NoteMove", "person_id="+somebody, "--grpc", at)
			if code != tc.want || out != "" {
				t.Errorf("exit %d, want %d; stdout %q", code, tc.want, out)
			}
			for _, text := range tc.says {
				if !strings.Contains(err, text) {
					t.Errorf("stderr lacks %q:\n%s", text, err)
				}
			}
		})
	}
}

func TestNobodyThere(t *testing.T) {
	t.Parallel()
	lis, e := net.Listen("tcp", "127.0.0.1:0")
	if e != nil {
		t.Fatal(e)
	}
	at := lis.Addr().String()
	lis.Close()
	_, err, code := waymark(t, "", "call", "person.NoteMove", "person_id="+somebody, "--grpc", at)
	if code != exitUnavailable || !strings.Contains(err, "waymark doctor --grpc '"+at+"'") {
		t.Errorf("call: exit %d, stderr %q", code, err)
	}
	out, err, code := waymark(t, "", "doctor", "--grpc", at, "--http", at, "--nats", "nats://"+at, "--eventstore", "esdb://"+at+"?tls=false", "--timeout", "1s", "-o", "json", "--data", t.TempDir())
	var found []finding
	if e := json.Unmarshal([]byte(out), &found); e != nil || code != exitUnavailable || len(found) < 5 || !strings.Contains(err, "nothing answers") {
		t.Errorf("doctor: exit %d, %v, stdout %q, stderr %q", code, e, out, err)
	}
}

func TestMistakesAreUsageErrors(t *testing.T) {
	t.Parallel()
	for args, says := range map[string]string{
		"nonsense":                                   `unknown command "nonsense"`,
		"call --lst":                                 "did you mean --list?",
		"call":                                       "--list",
		"call person.NoteMoove":                      "no method is called",
		"call notemov":                               "did you mean person.NoteMove?",
		"call person.NoteMove persn_id=x":            "it has command, person_id",
		"call person.NoteMove person_id":             "is not field=value",
		"call person.NoteMove -d {":                  "unexpected",
		`call person.NoteMove -d {"person":1}`:       "person",
		"call person.NoteMove -o yaml":               "--output is table, json, ndjson",
		"events":                                     "tail, show, export",
		"events show":                                "accepts 1 arg",
		"events show nothing":                        "is no stream",
		"events export --after 3 pathway-1":          "--after",
		"bus rebuild":                                "--yes",
		"run nonsense":                               "no service is called",
		"eventstore --listen 0.0.0.0:2113":           "is not loopback",
		"eventstore --tls-cert a":                    "belong together",
		"eventstore --tls-cert a --tls-key b":        "--auth-file",
		"dev --log-level loud":                       "--log-level",
		"config -o json":                             "a table only",
		"call --describe waymark.person.v1.Nonsense": "no method is called",
		"dev now":                                    "unknown command",
		"call --list person. too much":               "name a method",
	} {
		t.Run(args, func(t *testing.T) {
			t.Parallel()
			out, err, code := waymark(t, "", strings.Fields(args)...)
			if code != exitUsage || !strings.Contains(err, says) || !strings.HasPrefix(err, "error: ") || out != "" {
				t.Errorf("exit %d, stdout %q, stderr %q; want %q", code, out, err, says)
			}
		})
	}
	var stderr bytes.Buffer
	code := newCLI(nil, &stderr, &stderr, []string{"WAYMARK_GRCP=x"}).execute(t.Context(), []string{"version"})
	if code != exitUsage || !strings.Contains(stderr.String(), "did you mean WAYMARK_GRPC?") {
		t.Errorf("an unknown variable: exit %d, %q", code, &stderr)
	}
}

func TestTheContractCanBeRead(t *testing.T) {
	t.Parallel()
	out, _, code := waymark(t, "", "call", "--list", "person", "-o", "json")
	var lines []struct{ Method, Full string }
	if err := json.Unmarshal([]byte(out), &lines); err != nil || code != exitOK || len(lines) < 5 {
		t.Fatalf("exit %d, %v, %q", code, err, out)
	}
	short := map[string]bool{}
	for _, m := range contract() {
		if short[m.short] {
			t.Errorf("two methods are called %s", m.short)
		}
		short[m.short] = true
		if found, err := find(m.path()); err != nil || found.desc != m.desc {
			t.Errorf("%s is not found by its path: %v", m.path(), err)
		}
		if _, _, code := waymark(t, "", "call", "--describe", m.short); code != exitOK {
			t.Errorf("describe %s: exit %d", m.short, code)
		}
	}
	out, _, _ = waymark(t, "", "call", "--describe", "person.NoteMove")
	for _, text := range []string{"command_id", "uuid:true", "organisation", "[ods]:true"} {
		if !strings.Contains(out, text) {
			t.Errorf("describe lacks %q:\n%s", text, out)
		}
	}
}

// TestHelp: every command explains itself, and the codes stand where people look.
func TestHelp(t *testing.T) {
	t.Parallel()
	out, _, code := waymark(t, "", "--help")
	if code != exitOK || !strings.Contains(out, exitHelp) {
		t.Errorf("exit %d, %q", code, out)
	}
	root := newCLI(nil, nil, nil, nil).root()
	each(root, func(cmd *cobra.Command) {
		if cmd.Name() == "help" || cmd.Name() == "completion" || cmd.HasSubCommands() || cmd.Name() == "version" {
			return
		}
		if cmd.Short == "" || !strings.Contains(cmd.Long, "waymark "+strings.TrimPrefix(cmd.CommandPath(), "waymark ")) {
			t.Errorf("%s: its help needs an example", cmd.CommandPath())
		}
	})
}

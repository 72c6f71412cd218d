package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// actAs makes the test binary be waymark itself, so that the README's commands
// run literally, as the processes that a user would start.
const actAs = "TEST_BINARY_IS_WAYMARK"

func TestMain(m *testing.M) {
	if os.Getenv(actAs) != "" {
		main()
	}
	os.Exit(m.Run())
}

// checkout is an empty folder with bin/waymark, and an environment in which
// waymark uses free ports.
type checkout struct {
	t    *testing.T
	dir  string
	env  []string
	port int // offset
}

func newCheckout(t *testing.T) *checkout {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := &checkout{t: t, dir: t.TempDir(), port: freeOffset(t)}
	if err := os.Mkdir(filepath.Join(c.dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, filepath.Join(c.dir, "bin", "waymark")); err != nil {
		t.Fatal(err)
	}
	c.env = append(os.Environ(), actAs+"=1", fmt.Sprintf("WAYMARK_PORT_OFFSET=%d", c.port))
	return c
}

// freeOffset returns a port offset at which nothing listens now.
func freeOffset(t *testing.T) int {
	for range 100 {
		offset := 10_000 + rand.IntN(20_000)
		free := true
		for _, port := range []int{portGRPC, portHTTP, portNATS, portEventStore, portMLLP, portFHIR} {
			lis, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port+offset))
			if err != nil {
				free = false
				break
			}
			lis.Close()
		}
		if free {
			return offset
		}
	}
	t.Fatal("no free ports found")
	return 0
}

// sh runs a script as the README's reader would, in bash, and returns its stdout.
func (c *checkout) sh(script string) string {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", script)
	cmd.Dir, cmd.Env, cmd.WaitDelay = c.dir, c.env, time.Second
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		c.t.Fatalf("%v\n%s\nin:\n%s", err, stderr.Bytes(), script)
	}
	return string(out)
}

// dev starts `waymark dev` and returns it with the lines of its banner.
func (c *checkout) dev(flags ...string) (*exec.Cmd, []string, *bytes.Buffer) {
	c.t.Helper()
	cmd := exec.Command(filepath.Join("bin", "waymark"), append([]string{"dev"}, flags...)...)
	cmd.Path = filepath.Join(c.dir, "bin", "waymark")
	cmd.Dir, cmd.Env = c.dir, c.env
	stderr := &bytes.Buffer{}
	cmd.Stderr = stderr
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { cmd.Process.Kill() })
	var banner []string
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		banner = append(banner, lines.Text())
		if strings.HasPrefix(lines.Text(), "Ctrl-C") {
			return cmd, banner, stderr
		}
	}
	cmd.Wait()
	c.t.Fatalf("dev ended: %s\n%s", strings.Join(banner, "\n"), stderr)
	return nil, nil, nil
}

// TestREADME does literally what the README tells its reader to do.
func TestREADME(t *testing.T) {
	t.Parallel()
	blocks := readmeBlocks(t, "A walk-through")
	if len(blocks) != 4 {
		t.Fatalf("the walk-through has %d blocks of commands; the last of 4 is after the restart", len(blocks))
	}
	c := newCheckout(t)
	server, banner, stderr := c.dev()
	t.Logf("\n%s", strings.Join(banner, "\n"))
	if len(banner) > 12 {
		t.Errorf("the banner has %d lines, more than 12", len(banner))
	}

	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	live := exec.CommandContext(ctx, filepath.Join(c.dir, "bin", "waymark"), "events", "tail", "--event", "ReferralAccepted", "--count", "1", "-o", "ndjson")
	live.Dir, live.Env = c.dir, c.env
	heard := &bytes.Buffer{}
	live.Stdout = heard
	listening, err := live.StderrPipe()
	if err == nil {
		err = live.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(listening).ReadString('\n'); err != nil || !strings.Contains(line, "listening") {
		t.Fatalf("tail: %q, %v", line, err)
	}

	// One shell, as in the README: variables live on. The last block is after kill -9.
	before := strings.Join(blocks[:3], "\n") + "\ndeclare -p PERSON PATHWAY REFERRAL > variables\n"
	out := c.sh(before)
	for _, text := range []string{"REFERRAL_STATE_SENT", "REFERRAL_STATE_RECEIVED", "REFERRAL_STATE_ACCEPTED", "waymark.referral.v1.PathwayStarted"} {
		if !strings.Contains(out, text) {
			t.Errorf("the walk-through does not print %q:\n%s", text, out)
		}
	}
	if err := live.Wait(); err != nil {
		t.Errorf("tail: %v", err)
	}
	var cloudEvent struct{ SpecVersion, Type string }
	if err := json.Unmarshal(heard.Bytes(), &cloudEvent); err != nil || cloudEvent.SpecVersion != "1.0" || cloudEvent.Type != "uk.nhs.waymark.referral.referralaccepted.v1" {
		t.Errorf("the tail heard %q: %v", heard, err)
	}
	exported, err := os.ReadFile(filepath.Join(c.dir, "log.ndjson"))
	if err != nil {
		t.Fatal(err)
	}

	if err := server.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	server.Wait()
	if stderr.Len() > 0 {
		t.Errorf("dev is silent after its banner, but printed:\n%s", stderr)
	}
	server, _, stderr = c.dev()
	out = c.sh("source variables\n" + blocks[3])
	if !strings.Contains(out, "service referral.write") {
		t.Errorf("after kill -9:\n%s", out)
	}
	again := c.sh("bin/waymark events export")
	if !strings.HasPrefix(again, string(exported)) || len(exported) == 0 {
		t.Errorf("after kill -9 the log is not what it was: %d bytes before, %d after", len(exported), len(again))
	}

	if err := server.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := server.Wait(); err != nil {
		t.Errorf("Ctrl-C: %v\n%s", err, stderr)
	}
	for _, text := range []string{"kept in " + filepath.Join(c.dir, ".waymark"), "resume with: bin/waymark dev"} {
		if !strings.Contains(stderr.String(), text) {
			t.Errorf("Ctrl-C does not say %q:\n%s", text, stderr)
		}
	}
}

// TestREADMETellsTheWholeStory does what the README says after dev --demo, from
// suspected cancer to the first contact by the lead; then the demonstration is
// seeded again, and nothing changes.
func TestREADMETellsTheWholeStory(t *testing.T) {
	t.Parallel()
	blocks := readmeBlocks(t, "The whole story")
	if len(blocks) != 6 {
		t.Fatalf("the story has %d blocks of commands, not 6", len(blocks))
	}
	c := newCheckout(t)
	server, banner, stderr := c.dev("--demo", "--fresh", "--demo-patients", "0")
	if len(banner) > 12 {
		t.Errorf("the banner has %d lines, more than 12", len(banner))
	}
	out := c.sh(strings.Join(blocks, "\n"))
	t.Logf("\n%s", out)
	for _, text := range []string{"refused", "PLAN_STATE_", "HANDOVER_STATE_OFFERED", "Accountability passed from RJ1 Breast to C. Okafor.", "The accountable party made first contact.", "2099-01-05T09:20:00Z", "APPOINTMENT_STATUS_CANCELLED", "M20 ", `"status":"cancelled"`, `"status":"accepted","businessStatus"`, `"resourceType": "EpisodeOfCare"`} {
		if !strings.Contains(out, text) {
			t.Errorf("the story does not print %q", text)
		}
	}
	if !strings.Contains(out, "\nRJ1 Breast\nC. Okafor\n") {
		t.Error("as of before the acceptance the team is not named, or after it the lead is not")
	}
	verdict := regexp.MustCompile(`(?s)pathways +(\d+).*instants +(\d+)\nfaults +(\d+)`).FindStringSubmatch(out)
	if verdict == nil || verdict[1] != "7" || verdict[2] == "0" || verdict[3] != "0" {
		t.Errorf("verify says %q", verdict)
	}
	// Checkpoints and schemas come and go; commands do not.
	recorded := func() string { return c.sh("bin/waymark verify | grep -v '^events\\|^streams'") }
	before := recorded()
	if err := server.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := server.Wait(); err != nil {
		t.Errorf("Ctrl-C: %v\n%s", err, stderr)
	}
	c.dev("--demo", "--demo-patients", "0")
	if again := recorded(); again != before {
		t.Errorf("seeded again, the record is not what it was:\n%s\n%s", before, again)
	}
}

// TestREADMENamesTheExitCodes: the table and --help are one list.
func TestREADMENamesTheExitCodes(t *testing.T) {
	t.Parallel()
	text := readme(t)
	for line := range strings.Lines(exitHelp) {
		code, meaning, _ := strings.Cut(strings.TrimSpace(line), "  ")
		if row := "| " + code + " | " + meaning + " |"; !strings.Contains(text, row) {
			t.Errorf("the README lacks %q", row)
		}
	}
}

func readme(t *testing.T) string {
	content, err := os.ReadFile("../../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// readmeBlocks returns the blocks of commands of a section, fenced with ```sh;
// the others are for the eye.
func readmeBlocks(t *testing.T, section string) (blocks []string) {
	_, text, _ := strings.Cut(readme(t), "\n## "+section+"\n")
	text, _, _ = strings.Cut(text, "\n## ")
	for _, m := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(text, -1) {
		blocks = append(blocks, m[1])
	}
	return blocks
}

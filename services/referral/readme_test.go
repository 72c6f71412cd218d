package referral

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	pb "waymark/proto/waymark/referral/v1"
)

// TestReadme: the README lists every refusal in the source and shows the table of
// states that the code holds.
func TestReadme(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	readme := string(text)
	sources, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	code := regexp.MustCompile(`"((?:cwt|pathway|referral|service|directory)\.[a-z_.]+)"`)
	found := 0
	for _, file := range sources {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range code.FindAllStringSubmatch(string(source), -1) {
			found++
			if !strings.Contains(readme, "`"+m[1]+"`") {
				t.Errorf("%s refuses with %s, which the README does not explain", file, m[1])
			}
		}
	}
	if found == 0 {
		t.Error("no refusal found")
	}
	who := map[pb.OwnerSide]string{nobody: "–", sender: "sender", receiver: "receiver"}
	for state, row := range states {
		name := strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(state.String(), "REFERRAL_STATE_"), "_", " "))
		line := "| " + strings.Join([]string{name, row.serviceRequest, or(row.task, "–"), who[row.owner], or(row.message, "–")}, " | ") + " |"
		if !strings.Contains(readme, line) {
			t.Errorf("the README lacks the row\n%s", line)
		}
	}
}

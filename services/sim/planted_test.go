//go:build planted

package sim

import (
	"flag"
	"fmt"
	"testing"
)

// bugs are built in with the tag "planted", one at a time.
func bugs() []string {
	return []string{
		"answer before sync",
		"shown before sync",
		"revision unchecked",
		"command forgotten",
		"retry with a fresh id",
		"checkpoint before effect",
		"relay without fence",
		"a time-out transfers",
		"lead without acceptance",
		"read model drops an event",
		"caseload keeps who left",
		"answered before the outcome",
		"applied before it is kept",
		"repeat with new commands",
		"held patient passed",
		"look-up without its person",
		"timeline page skips an entry",
		"resumed watch forgets who left",
	}
}

// TestPlanted finds each planted bug within 20 seeds.
func TestPlanted(t *testing.T) {
	passed := 0
	all := bugs()
	if one := flag.Arg(0); one != "" && one != "all" {
		all = []string{one}
	}
	for _, bug := range all {
		if found(t, bug) {
			passed++
		}
	}
	fmt.Printf("%d passed, %d failed\n", passed, len(all)-passed)
}

func found(t *testing.T, bug string) bool {
	t.Setenv("PLANT", bug)
	for seed := range uint64(20) {
		if r := play(t, seed, Drawn(seed)); r.Bad() > 0 {
			fmt.Printf("%-28s found by seed %2d: %s\n", bug, seed, r.Faults[0])
			return true
		}
	}
	t.Errorf("20 seeds did not find: %s", bug)
	return false
}

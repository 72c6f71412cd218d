//go:build planted

// Package planted holds the switch of the bugs that are built in on purpose.
package planted

import "os"

// Is says that the named bug is at work.
func Is(bug string) bool { return os.Getenv("PLANT") == bug }

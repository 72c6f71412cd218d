//go:build planted

package eventstore

import "os"

func planted(bug string) bool { return os.Getenv("PLANT") == bug }

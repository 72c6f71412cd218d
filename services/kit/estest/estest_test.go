package estest

import (
	"testing"

	"waymark/services/kit/es"
)

func TestLogInMemory(t *testing.T) {
	t.Parallel()
	LogSuite(t, func() es.Log { return NewLog() })
	shared := NewAuditedLog(t)
	LogSuite(t, func() es.Log { return shared })
}

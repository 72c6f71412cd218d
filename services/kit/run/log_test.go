package run

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"

	metav1 "waymark/proto/waymark/meta/v1"
)

type masked string

func (masked) LogValue() slog.Value { return slog.StringValue("999 *** ****") }

type hiding struct{ Inner *metav1.Actor }

func TestLogRefusesWhatCouldHoldPatientData(t *testing.T) {
	const secret = "s3cret"
	actor := &metav1.Actor{User: secret}
	for name, v := range map[string]any{
		"message":   actor,
		"reflected": actor.ProtoReflect(),
		"list":      []*metav1.Actor{actor},
		"map":       map[string]*metav1.Actor{"a": actor},
		"struct":    hiding{actor},
		"any":       []any{hiding{actor}},
		"bytes":     []byte(secret),
		"masked":    masked(secret),
		"masks":     []masked{secret},
	} {
		for _, format := range []string{"json", "text"} {
			var out strings.Builder
			log, err := NewLogger(&out, format, "debug")
			if err != nil {
				t.Fatal(err)
			}
			log.With("with", v).WithGroup("g").Info("x", "value", v, slog.Group("inner", "value", v))
			if strings.Contains(out.String(), secret) {
				t.Errorf("%s as %s: %s", name, format, out.String())
			}
			if want := map[bool]string{true: "999 *** ****", false: "refused"}[strings.HasPrefix(name, "mask")]; strings.Count(out.String(), want) != 3 {
				t.Errorf("%s as %s lacks %q: %s", name, format, want, out.String())
			}
		}
	}
}

func TestLogKeepsWhatIsSafe(t *testing.T) {
	var out strings.Builder
	log, _ := NewLogger(&out, "json", "")
	span := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}})
	log.InfoContext(trace.ContextWithSpanContext(context.Background(), span), "x",
		"error", errors.New("boom"), "took", time.Second, "names", []string{"a", "b"}, "level", slog.LevelWarn)
	for _, want := range []string{`"error":"boom"`, `"took":1000000000`, `"names":["a","b"]`, `"trace_id":"01000000000000000000000000000000"`, `"span_id":"0200000000000000"`} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("lacks %s: %s", want, out.String())
		}
	}
}

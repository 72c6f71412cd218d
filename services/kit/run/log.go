package run

import (
	"context"
	"encoding"
	"fmt"
	"io"
	"log/slog"
	"reflect"
	"strings"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// NewLogger returns the logger of a process: format "json" or "text", from the
// given level up. It adds trace_id and span_id, and it lets through only values
// that are safe by their type: numbers, strings, times, errors, values that say
// themselves how they are logged or printed (kit/nhs masks itself so), and
// lists of those. A proto message, or a struct or map that could hide one, is
// replaced by the note that it was refused.
func NewLogger(w io.Writer, format, minLevel string) (*slog.Logger, error) {
	lev, err := level(minLevel)
	if err != nil {
		return nil, err
	}
	opts := &slog.HandlerOptions{Level: lev, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		a.Value = safe(a.Value)
		return a
	}}
	if format == "text" {
		return slog.New(traced{slog.NewTextHandler(w, opts)}), nil
	}
	return slog.New(traced{slog.NewJSONHandler(w, opts)}), nil
}

func level(name string) (l slog.Level, err error) {
	if name == "" {
		return slog.LevelInfo, nil
	}
	return l, l.UnmarshalText([]byte(strings.ToUpper(name)))
}

// safe returns v, or the text that v gives of itself, or that v was refused.
func safe(v slog.Value) slog.Value {
	if v.Kind() != slog.KindAny {
		return v
	}
	switch x := v.Any().(type) {
	case nil, slog.Level, *slog.Source:
		return v
	case proto.Message, protoreflect.Message, protoreflect.Value, []byte:
		return refused(x)
	case error:
		return slog.StringValue(x.Error())
	case fmt.Stringer:
		if reflect.PointerTo(reflect.TypeOf(x)).Implements(reflect.TypeFor[proto.Message]()) {
			return refused(x)
		}
		return slog.StringValue(x.String())
	case encoding.TextMarshaler:
		text, err := x.MarshalText()
		if err != nil {
			return refused(x)
		}
		return slog.StringValue(string(text))
	default:
		list := reflect.ValueOf(x)
		if k := list.Kind(); k != reflect.Slice && k != reflect.Array {
			return basic(list)
		}
		texts := make([]string, list.Len())
		for i := range texts {
			texts[i] = safe(slog.AnyValue(list.Index(i).Interface()).Resolve()).String()
		}
		return slog.AnyValue(texts)
	}
}

// basic lets defined types with a basic kind through (type Revision int64).
func basic(v reflect.Value) slog.Value {
	switch {
	case v.CanInt():
		return slog.Int64Value(v.Int())
	case v.CanUint():
		return slog.Uint64Value(v.Uint())
	case v.CanFloat():
		return slog.Float64Value(v.Float())
	case v.Kind() == reflect.Bool:
		return slog.BoolValue(v.Bool())
	case v.Kind() == reflect.String:
		return slog.StringValue(v.String())
	}
	return refused(v.Interface())
}

func refused(v any) slog.Value {
	return slog.StringValue(fmt.Sprintf("refused: a %T is not logged", v))
}

// traced adds the ids of the span in the context.
type traced struct{ slog.Handler }

func (h traced) Handle(ctx context.Context, r slog.Record) error {
	if span := trace.SpanContextFromContext(ctx); span.IsValid() {
		r.AddAttrs(slog.String("trace_id", span.TraceID().String()), slog.String("span_id", span.SpanID().String()))
	}
	return h.Handler.Handle(ctx, r)
}

func (h traced) WithAttrs(attrs []slog.Attr) slog.Handler {
	return traced{h.Handler.WithAttrs(attrs)}
}

func (h traced) WithGroup(name string) slog.Handler { return traced{h.Handler.WithGroup(name)} }

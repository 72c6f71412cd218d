package eventstore

import (
	"bytes"
	"math"
	"regexp"

	streamspb "github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// filter says which events of $all a reader wants. It looks at a record's header
// only. A nil filter wants all.
type filter struct {
	onType   bool // else on the stream's name
	regex    *regexp.Regexp
	prefixes [][]byte
	// interval is how many events a subscription considers between checkpoints.
	interval uint64
}

const (
	defaultWindow = 32
	maxPattern    = 4096 // bytes of a regular expression
	maxPrefixes   = 1024
)

// newFilter checks and compiles a filter. Regular expressions are RE2; one with
// look-around or back-references is refused.
func newFilter(o *streamspb.ReadReq_Options_FilterOptions) (*filter, error) {
	f := &filter{}
	var expr *streamspb.ReadReq_Options_FilterOptions_Expression
	switch by := o.GetFilter().(type) {
	case *streamspb.ReadReq_Options_FilterOptions_StreamIdentifier:
		expr = by.StreamIdentifier
	case *streamspb.ReadReq_Options_FilterOptions_EventType:
		expr, f.onType = by.EventType, true
	default:
		return nil, status.Error(codes.InvalidArgument, "a filter is on stream_identifier or on event_type")
	}
	switch {
	case len(expr.GetRegex()) > maxPattern || len(expr.GetPrefix()) > maxPrefixes:
		return nil, status.Error(codes.InvalidArgument, "the filter is too long")
	case expr.GetRegex() != "":
		re, err := regexp.Compile(expr.GetRegex())
		if err != nil {
			return nil, status.Errorf(codes.InvalidArgument, "the filter's regular expression is not RE2: %v", err)
		}
		f.regex = re
	case len(expr.GetPrefix()) > 0:
		for _, p := range expr.GetPrefix() {
			f.prefixes = append(f.prefixes, []byte(p))
		}
	default:
		return nil, status.Error(codes.InvalidArgument, "the filter has neither a regular expression nor a prefix")
	}
	window := uint64(defaultWindow)
	if o.GetMax() > 0 {
		window = uint64(o.GetMax())
	}
	if o.GetCheckpointIntervalMultiplier() == 0 {
		return nil, status.Error(codes.InvalidArgument, "checkpointIntervalMultiplier must be above 0")
	}
	f.interval = min(window*uint64(o.GetCheckpointIntervalMultiplier()), math.MaxInt64)
	return f, nil
}

func (f *filter) match(r record) bool {
	if f == nil {
		return true
	}
	name := r.stream()
	if f.onType {
		name = r.typ()
	}
	if f.regex != nil {
		return f.regex.Match(name)
	}
	for _, p := range f.prefixes {
		if bytes.HasPrefix(name, p) {
			return true
		}
	}
	return false
}

var hiddenPrefix = []byte("$persistentsubscription-$all::")

// hidden events are left out of $all: bookkeeping of persistent subscriptions to
// $all, which would otherwise feed themselves.
func hidden(r record) bool {
	name := r.stream()
	return len(name) > 0 && name[0] == '$' && bytes.HasPrefix(name, hiddenPrefix) &&
		(bytes.HasSuffix(name, []byte("-checkpoint")) || bytes.HasSuffix(name, []byte("-parked")))
}

package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	edgev1 "waymark/proto/waymark/edge/v1"
	"waymark/services/kit/fault"
	"waymark/services/kit/mllp"
)

// openMaybeGzip opens a file, and what is in it where it is gzip.
func openMaybeGzip(name string) (io.ReadCloser, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	in := bufio.NewReader(f)
	out := struct {
		io.Reader
		io.Closer
	}{in, f}
	if head, _ := in.Peek(2); bytes.Equal(head, []byte{0x1f, 0x8b}) {
		z, err := gzip.NewReader(in)
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		out.Reader = z
	}
	return out, nil
}

func readMaybeGzip(name string) ([]byte, error) {
	in, err := openMaybeGzip(name)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	return io.ReadAll(in)
}

// hl7 imports HL7 v2 messages, in the order of files and messages: what is said
// later of a patient stands on what was said before.
func (im *importer) hl7(ctx context.Context, files []string) error {
	s := im.counting(string(kindHL7), "messages", len(files))
	type one struct {
		raw   []byte
		where string
	}
	var all []one
	for _, name := range files {
		raw, err := readMaybeGzip(name)
		if err != nil {
			return err
		}
		for i, m := range mllp.Split(raw) {
			all = append(all, one{m, fmt.Sprintf("%s, message %d", name, i+1)})
		}
	}
	s.Read = len(all)
	if im.o.DryRun {
		return nil
	}
	begun := time.Now()
	defer func() { s.Seconds = time.Since(begun).Seconds() }()
	client := edgev1.NewEdgeServiceClient(im.conn)
	bar := im.c.progress("imported messages")
	defer bar.end()
	for i, m := range all {
		if len(m.raw) > mllp.MaxMessage {
			s.Refused++
			im.unkept++
			im.because(s, "refused: edge.message.too_large", m.where)
			continue
		}
		reply, err := client.TakeMessage(ctx, &edgev1.TakeMessageRequest{Raw: m.raw})
		if err != nil {
			if err := im.failed(s, err, m.where); err != nil {
				return err
			}
			continue
		}
		im.count(s, reply.Message, reply.Duplicate, m.where)
		bar.set(uint64(i+1), uint64(len(all)))
	}
	return nil
}

// failed counts a fault of the service in one message; one that is down is an
// error for all.
func (im *importer) failed(s *imported, err error, where string) error {
	if fault.IsAnswer(err) { // it was not even kept: it is no message
		s.Refused++
		im.unkept++
		im.because(s, "refused: "+why(err), where)
		return nil
	}
	if code := codeOf(err); code != codes.Internal && code != codes.Unknown {
		return fmt.Errorf("%s: %w", where, err)
	}
	s.Failed++
	im.because(s, "failed", where)
	return nil
}

// count counts what became of a message or a document.
func (im *importer) count(s *imported, m *edgev1.Message, again bool, where string) {
	reason := m.GetReason().GetCode()
	if field := m.GetReason().GetField(); field != "" {
		reason += " " + field
	}
	switch {
	case again:
		s.Duplicate++
	case m.GetState() == edgev1.MessageState_MESSAGE_STATE_APPLIED:
		s.Taken++
	case m.GetState() == edgev1.MessageState_MESSAGE_STATE_PARKED:
		s.Parked++
		im.because(s, "parked: "+reason, where)
	default:
		s.Refused++
		im.because(s, "refused: "+reason, where)
	}
}

// fieldsOf names the fields that a refusal speaks of.
func fieldsOf(err error) (fields []string) {
	for _, d := range status.Convert(err).Details() {
		if bad, ok := d.(*errdetails.BadRequest); ok {
			for _, v := range bad.FieldViolations {
				fields = append(fields, strings.TrimPrefix(v.Field, "facts."))
			}
		}
	}
	return fields
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"

	edgev1 "waymark/proto/waymark/edge/v1"
	"waymark/services/allinone"
	"waymark/services/kit/es"
	"waymark/services/kit/mllp"
	"waymark/services/kit/run"
)

// tryOptions of waymark try.
type tryOptions struct {
	After    []string `flag:"after" help:"files that are taken first, so that what they say is known; several, comma separated"`
	From     string   `flag:"from" default:"RJ1" help:"ODS code of the organisation that FHIR documents come from"`
	Facility []string `flag:"facility" help:"the ODS code of a sending facility (HL7 MSH-4) that sends a name instead, as NAME=ODS; several, comma separated"`
}

// tried is what would become of one message.
type tried struct {
	Where  string          `json:"where"`
	Fields []field         `json:"fields"`
	State  string          `json:"state"`
	Reason string          `json:"reason,omitempty"`
	Calls  []string        `json:"commands"`
	Events []triedEvent    `json:"events"`
	Answer string          `json:"acknowledgement"`
	Kept   []string        `json:"kept_without_a_command,omitempty"`
	FHIR   json.RawMessage `json:"fhir,omitempty"` // with the last message
}

type field struct {
	Path  string `json:"path"`
	Value string `json:"value"`
}

type triedEvent struct {
	Stream string          `json:"stream"`
	Event  string          `json:"event"`
	Data   json.RawMessage `json:"data"`
}

func (c *cli) tryCommand() *cobra.Command {
	var o tryOptions
	cmd := &cobra.Command{
		Use: "try FILE", Short: "Show what a file of HL7 v2 or FHIR would do, without writing anything", Args: cobra.ExactArgs(1),
		Long: `Show, for each message or document of a file: its fields, whether it would be applied and why
not, the commands that it becomes, the events that would be recorded (those of the services'
reactions among them), the acknowledgement, and at the end the FHIR R4 that would be served.

It is tried against a system that is made for this, empty but for the files of --after, and thrown
away: nothing is written anywhere else, and no running system is asked. A message that speaks of
somebody who is known there may fare better in yours.

Examples:
  waymark try services/edge/testdata/ref-i12.hl7
  waymark try discharge.hl7 --after admission.hl7 -o json`,
		RunE: func(cmd *cobra.Command, args []string) error { return c.try(cmd.Context(), args[0], o) },
	}
	run.Bind(cmd.Flags(), &o)
	return cmd
}

func (c *cli) try(ctx context.Context, name string, o tryOptions) error {
	kind, err := kindOf(name)
	if err == nil && kind != kindHL7 && kind != kindFHIR {
		err = fmt.Errorf("%s holds no HL7 v2 and no FHIR in JSON", name)
	}
	if err != nil {
		return usage(nil, err)
	}
	dir, err := os.MkdirTemp("", "waymark-try-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	logger, err := run.NewLogger(io.Discard, "text", "error")
	if err != nil {
		return err
	}
	system, err := allinone.Start(ctx, allinone.Options{Data: filepath.Join(dir, "data"), AnyPort: true, Logger: logger, Config: run.Config{Facilities: o.Facility}})
	if err != nil {
		return err
	}
	defer system.Stop()
	conn, err := run.Dial(system.GRPC, nil, nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	log, err := es.Open(es.Config{URL: system.EventStore})
	if err != nil {
		return err
	}
	defer log.Close()
	t := trial{c: c, conn: conn, log: log, from: o.From}
	known, err := t.first(ctx, o.After)
	if err != nil {
		return usage(nil, fmt.Errorf("--after: %w", err))
	}
	all, err := t.file(ctx, name, kind)
	if err != nil {
		return err
	}
	if all[len(all)-1].FHIR, err = served(ctx, system.FHIR); err != nil {
		return err
	}
	if c.format != "" && c.format != "table" {
		for _, one := range all {
			if err := c.printJSON(one, c.format == "json"); err != nil {
				return err
			}
		}
		return nil
	}
	c.showTried(all, known)
	return nil
}

// trial is a system to try things on.
type trial struct {
	c    *cli
	conn *grpc.ClientConn
	log  es.Log
	from string
}

// first takes the files that come before, and returns how many messages they held.
func (t *trial) first(ctx context.Context, files []string) (n int, err error) {
	for _, name := range files {
		found, err := look([]string{name})
		if err != nil {
			return n, err
		}
		quiet := *t.c
		quiet.quiet = true
		im := newImporter(&quiet, importOptions{Parallel: 1, From: t.from}, t.conn)
		if len(found.files[kindHL7]) > 0 {
			err = im.hl7(ctx, found.files[kindHL7])
		} else {
			err = im.fhir(ctx, found.files[kindFHIR])
		}
		if err != nil {
			return n, err
		}
		n += im.report.Sources[0].Taken
	}
	return n, t.quiet(ctx)
}

// quiet waits until nothing was recorded for a moment: services react to what they
// hear of.
func (t *trial) quiet(ctx context.Context) error {
	const moment = 400 * time.Millisecond
	moved := errors.New("moved")
	for range 25 {
		head, err := t.log.Head(ctx)
		if err != nil {
			return err
		}
		waiting, stop := context.WithTimeout(ctx, moment)
		err = t.log.Subscribe(waiting, head, es.Filter{}, func(m es.Message) error {
			if m.Event != nil && !bookkeeping(m.Event.Stream) {
				return moved
			}
			return nil
		})
		stop()
		if !errors.Is(err, moved) {
			return ctx.Err()
		}
	}
	return nil
}

// bookkeeping reports whether a stream says nothing of patients.
func bookkeeping(stream string) bool {
	category, _, _ := strings.Cut(stream, "-")
	return slices.Contains([]string{"checkpoint", "schema", "message", "identity"}, category)
}

// file tries what a file holds, in its order.
func (t *trial) file(ctx context.Context, name string, kind kindOfFile) (all []*tried, err error) {
	raw, err := readMaybeGzip(name)
	if err != nil {
		return nil, err
	}
	client := edgev1.NewEdgeServiceClient(t.conn)
	parts := [][]byte{raw}
	if kind == kindHL7 {
		parts = mllp.Split(raw)
	} else if strings.HasSuffix(strings.TrimSuffix(name, ".gz"), ".ndjson") {
		parts = slices.DeleteFunc(bytes.Split(raw, []byte("\n")), func(line []byte) bool { return len(bytes.TrimSpace(line)) == 0 })
	}
	for i, part := range parts {
		head, err := t.log.Head(ctx)
		if err != nil {
			return nil, err
		}
		one := &tried{Where: fmt.Sprintf("%s, %d of %d", name, i+1, len(parts))}
		all = append(all, one)
		m, err := t.take(ctx, client, kind, part, one)
		if err != nil {
			one.State, one.Reason = "not kept", err.Error()
			continue
		}
		if err := t.explain(ctx, client, m, one); err != nil {
			return nil, err
		}
		if err := t.quiet(ctx); err != nil {
			return nil, err
		}
		if one.Events, err = t.since(ctx, head); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func (t *trial) take(ctx context.Context, client edgev1.EdgeServiceClient, kind kindOfFile, raw []byte, one *tried) (*edgev1.Message, error) {
	if kind == kindHL7 {
		reply, err := client.TakeMessage(ctx, &edgev1.TakeMessageRequest{Raw: raw})
		one.Answer = strings.ReplaceAll(strings.TrimRight(string(reply.GetAcknowledgement()), "\r"), "\r", "\n")
		return reply.GetMessage(), err
	}
	reply, err := client.TakeDocument(ctx, &edgev1.TakeDocumentRequest{Raw: raw, Organisation: t.from, Source: "try"})
	one.Answer = fmt.Sprintf("HTTP %d\n%s", reply.GetStatus(), reply.GetAnswer())
	return reply.GetMessage(), err
}

// explain says what became of a message.
func (t *trial) explain(ctx context.Context, client edgev1.EdgeServiceClient, m *edgev1.Message, one *tried) error {
	shown, err := client.GetMessage(ctx, &edgev1.GetMessageRequest{MessageId: m.MessageId})
	if err != nil {
		return err
	}
	for _, f := range shown.Fields {
		one.Fields = append(one.Fields, field{f.Path, f.Value})
	}
	one.State = strings.ToLower(strings.TrimPrefix(m.State.String(), "MESSAGE_STATE_"))
	if r := m.Reason; r != nil {
		one.Reason = strings.Join(slices.DeleteFunc([]string{r.Code, r.Field, r.Text}, func(s string) bool { return s == "" }), ": ")
	}
	for _, e := range m.Effects {
		one.Calls = append(one.Calls, e.Command+" "+e.SubjectId)
	}
	for _, k := range m.Kept {
		one.Kept = append(one.Kept, fmt.Sprintf("%d %s: %s", k.Count, k.Type, k.Code))
	}
	return nil
}

// since reads the events that speak of patients, from one position on.
func (t *trial) since(ctx context.Context, head es.Position) (all []triedEvent, err error) {
	err = t.log.ReadAll(ctx, head, func(e es.Recorded) error {
		if bookkeeping(e.Stream) {
			return nil
		}
		m, err := es.Decode(e)
		if err != nil {
			return err
		}
		raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
		all = append(all, triedEvent{e.Stream, string(m.ProtoReflect().Descriptor().Name()), raw})
		return err
	})
	return all, err
}

// served is all that the FHIR server of an otherwise empty system has, of every
// type that can be searched.
func served(ctx context.Context, base string) (json.RawMessage, error) {
	get := func(path string, into any) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, path, nil)
		if err != nil {
			return err
		}
		reply, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		defer reply.Body.Close()
		if reply.StatusCode != http.StatusOK {
			return fmt.Errorf("FHIR: %s answered %s", path, reply.Status)
		}
		return json.NewDecoder(reply.Body).Decode(into)
	}
	var can struct {
		Rest []struct {
			Resource []struct {
				Type        string
				Interaction []struct{ Code string }
			}
		}
	}
	if err := get(base+"/metadata", &can); err != nil {
		return nil, err
	}
	out := []json.RawMessage{}
	for _, rest := range can.Rest {
		for _, r := range rest.Resource {
			reads := slices.ContainsFunc(r.Interaction, func(i struct{ Code string }) bool { return i.Code == "read" })
			searches := slices.ContainsFunc(r.Interaction, func(i struct{ Code string }) bool { return i.Code == "search-type" })
			if !reads || !searches {
				continue // what is not a patient's
			}
			for next := base + "/" + r.Type; next != ""; {
				var bundle struct {
					Link  []struct{ Relation, URL string }
					Entry []struct{ Resource json.RawMessage }
				}
				if err := get(next, &bundle); err != nil {
					return nil, err
				}
				for _, e := range bundle.Entry {
					out = append(out, e.Resource)
				}
				next = ""
				for _, l := range bundle.Link {
					if l.Relation == "next" {
						next = l.URL
					}
				}
			}
		}
	}
	return json.Marshal(out)
}

func (c *cli) showTried(all []*tried, known int) {
	line := func(format string, args ...any) { fmt.Fprintf(c.out, format+"\n", args...) }
	state := "an empty system"
	if known > 0 {
		state = fmt.Sprintf("a system that had taken %d messages", known)
	}
	line("Tried against %s, made for this and thrown away. Nothing was written anywhere else.", state)
	for _, one := range all {
		line("\n=== %s: %s", one.Where, strings.TrimSpace(one.State+" "+one.Reason))
		line("--- fields")
		for _, f := range one.Fields {
			line("  %-20s %s", f.Path, f.Value)
		}
		line("--- commands")
		for _, call := range one.Calls {
			line("  %s", call)
		}
		for _, kept := range one.Kept {
			line("  kept, without a command: %s", kept)
		}
		line("--- events")
		for _, e := range one.Events {
			line("  %s %s %s", e.Stream, e.Event, e.Data)
		}
		line("--- acknowledgement")
		line("  %s", strings.ReplaceAll(one.Answer, "\n", "\n  "))
	}
	line("\n=== FHIR R4 that is served then")
	var resources []json.RawMessage
	if json.Unmarshal(all[len(all)-1].FHIR, &resources) == nil {
		for _, r := range resources {
			line("  %s", r)
		}
	}
}

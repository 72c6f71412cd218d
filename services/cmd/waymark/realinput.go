package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/spf13/cobra"

	edgev1 "waymark/proto/waymark/edge/v1"
	"waymark/services/allinone"
	"waymark/services/kit/es"
	"waymark/services/kit/fault"
	"waymark/services/kit/mllp"
	"waymark/services/kit/nhs"
	"waymark/services/kit/run"
)

// The table stands between these in the file that it is written into.
const (
	tableBegins = "<!-- real-input: made by `make real-input`, do not edit -->"
	tableEnds   = "<!-- real-input ends -->"
)

func (c *cli) realInputCommand() *cobra.Command {
	var into string
	cmd := &cobra.Command{
		Use: "real-input FOLDER", Short: "Feed messages that others wrote to a system of their own, and count what becomes of them", Args: cobra.ExactArgs(1),
		Long: `Start an empty system for each folder in FOLDER that holds HL7 v2 or FHIR, in a temporary
folder, import what it holds, and print a table of what became of it. HL7 v2 is fed twice: as it
comes, and with its patients made known first, each by a referral with the message's own PID.
Facilities that send a name are given an ODS code, as with --facility. What was stored is counted in
the log again: a message that was read and is neither there nor a duplicate is lost. Exits with 5
when one is, when a message got no answer, and when a service logged an error.

Example:
  waymark real-input ./messages --into services/edge/README.md`,
		RunE: func(cmd *cobra.Command, args []string) error { return c.realInput(cmd.Context(), args[0], into) },
	}
	cmd.Flags().StringVar(&into, "into", "", "file to write the table into, between its markers")
	return cmd
}

// fed is what became of one kind of input of one folder.
type fed struct {
	folder string
	*imported
	known  bool // the patients were made known before
	fed    bool
	stored int   // messages in the log
	unkept int   // refused before they were kept
	errors int64 // lines of the log of the services at level error
}

// lost is how many messages are neither stored nor repeats of stored ones, or have
// come to nothing that is counted.
func (f fed) lost() int {
	return max(f.Read-f.Duplicate-f.unkept-f.stored, f.Read-f.Taken-f.Duplicate-f.Parked-f.Refused-f.Failed)
}

func (c *cli) realInput(ctx context.Context, folder, into string) error {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return usage(nil, err)
	}
	bar := c.progress("fed folders")
	defer bar.end()
	var all []fed
	for i, e := range entries {
		if !e.IsDir() {
			continue
		}
		found, err := look([]string{filepath.Join(folder, e.Name())})
		if err != nil {
			continue // nothing that can be taken
		}
		for _, kind := range []kindOfFile{kindHL7, kindFHIR, kindXML} {
			if len(found.files[kind]) == 0 {
				continue
			}
			f := fed{folder: e.Name(), imported: &imported{Kind: string(kind), Files: len(found.files[kind]), Reasons: map[string]int{}}}
			known := f
			known.imported, known.known = &imported{Kind: f.Kind + ", patients known", Files: f.Files, Reasons: map[string]int{}}, true
			if kind != kindXML {
				if err := c.feed(ctx, &f, kind, found.files[kind]); err != nil {
					return fmt.Errorf("%s: %w", e.Name(), err)
				}
			}
			all = append(all, f)
			if kind == kindHL7 {
				if err := c.feed(ctx, &known, kind, found.files[kind]); err != nil {
					return fmt.Errorf("%s, patients known: %w", e.Name(), err)
				}
				all = append(all, known)
			}
		}
		bar.set(uint64(i+1), uint64(len(entries)))
	}
	if len(all) == 0 {
		return usage(nil, fmt.Errorf("no folder in %s holds HL7 v2 or FHIR", folder))
	}
	table := realInputTable(all)
	if into == "" {
		fmt.Fprint(c.out, table)
	} else if err := between(into, table); err != nil {
		return usage(nil, err)
	}
	for _, f := range all {
		if f.lost() != 0 || f.Failed > 0 || f.errors > 0 {
			return damaged("", "%s: %d lost, %d failed, %d errors in the log", f.folder, f.lost(), f.Failed, f.errors)
		}
	}
	return nil
}

// countErrors counts what a system logs as an error, and prints it.
type countErrors struct {
	slog.Handler
	n *atomic.Int64
}

func (h countErrors) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelError {
		h.n.Add(1)
	}
	return h.Handler.Handle(ctx, r)
}

func (h countErrors) WithAttrs(a []slog.Attr) slog.Handler {
	return countErrors{h.Handler.WithAttrs(a), h.n}
}
func (h countErrors) WithGroup(name string) slog.Handler {
	return countErrors{h.Handler.WithGroup(name), h.n}
}

// prepare gives what a trust that sends these files would have set up: codes of the
// facilities that send a name, and for each patient a referral that opened a
// pathway, with the message's own PID.
func prepare(files []string) (facilities []string, referrals [][]byte, err error) {
	names, patients := map[string]bool{}, map[string]bool{}
	for _, name := range files {
		raw, err := readMaybeGzip(name)
		if err != nil {
			return nil, nil, err
		}
		for _, m := range mllp.Split(raw) {
			segments := bytes.FieldsFunc(m, func(r rune) bool { return r == '\r' || r == '\n' })
			if len(segments) == 0 || len(segments[0]) < 8 {
				continue
			}
			separator := string(segments[0][3])
			head := strings.Split(string(segments[0]), separator)
			if len(head) < 5 || len(head[1]) == 0 {
				continue
			}
			whole := strings.TrimSpace(head[3])
			first, _, _ := strings.Cut(whole, head[1][:1])
			for _, of := range []string{whole, first} {
				if _, err := nhs.ParseODS(of); err != nil && of != "" && !strings.ContainsAny(of, "=,") {
					names[of] = true
				}
			}
			for _, s := range segments {
				fields := strings.Split(string(s), separator)
				if fields[0] != "PID" || len(fields) < 4 || fields[3] == "" || patients[fields[3]] {
					continue
				}
				patients[fields[3]] = true
				c := head[1][:1]
				id := fmt.Sprint("KNOWN", len(patients))
				msh := []string{head[0], head[1], head[2], head[3], "WAYMARK", "X26", "20200102120000", "", "REF" + c + "I12" + c + "REF_I12", id, "P", "2.4"}
				if len(head) > 17 {
					msh = append(msh, "", "", "", "", "", head[17])
				}
				rf1 := []string{"RF1", "P", "3", "01", "", "", id + c + "RJ1", "20200102"}
				referrals = append(referrals, []byte(strings.Join(msh, separator)+"\r"+strings.Join(rf1, separator)+"\rPRD"+separator+"RP\r"+string(s)+"\r"))
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		facilities = append(facilities, name+"=RJ1")
	}
	return facilities, referrals, nil
}

// feed imports files into a system of their own, and adds up what became of them.
func (c *cli) feed(ctx context.Context, f *fed, kind kindOfFile, files []string) (err error) {
	dir, err := os.MkdirTemp("", "waymark-real-input-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var wrong atomic.Int64
	plain, err := run.NewLogger(c.err, "text", "error")
	if err != nil {
		return err
	}
	setting := run.Config{}
	var before [][]byte
	if kind == kindHL7 {
		if setting.Facilities, before, err = prepare(files); err != nil {
			return err
		}
	}
	system, err := allinone.Start(ctx, allinone.Options{Data: filepath.Join(dir, "data"), AnyPort: true, Config: setting, Logger: slog.New(countErrors{plain.Handler(), &wrong})})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, system.Stop()) }()
	conn, err := run.Dial(system.GRPC, nil, nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	quiet := *c
	quiet.quiet = true
	im := newImporter(&quiet, importOptions{Parallel: 1, From: "RJ1"}, conn)
	log, err := es.Open(es.Config{URL: system.EventStore})
	if err != nil {
		return err
	}
	defer log.Close()
	if f.known {
		for _, m := range before {
			if _, err := edgev1.NewEdgeServiceClient(conn).TakeMessage(ctx, &edgev1.TakeMessageRequest{Raw: m}); err != nil && !fault.IsAnswer(err) {
				return err
			}
		}
	}
	head, err := log.Head(ctx)
	if err != nil {
		return err
	}
	if kind == kindHL7 {
		err = im.hl7(ctx, files)
	} else {
		err = im.fhir(ctx, files)
	}
	if err != nil {
		return err
	}
	f.fed = true
	f.add(im)
	received := string((&edgev1.MessageReceived{}).ProtoReflect().Descriptor().FullName())
	err = log.ReadAll(ctx, head, func(e es.Recorded) error {
		if e.Type == received {
			f.stored++
		}
		return nil
	})
	f.errors += wrong.Load()
	return err
}

func (f *fed) add(im *importer) {
	one := im.report.Sources[0]
	f.Read, f.Taken, f.Duplicate = f.Read+one.Read, f.Taken+one.Taken, f.Duplicate+one.Duplicate
	f.Parked, f.Refused, f.Failed = f.Parked+one.Parked, f.Refused+one.Refused, f.Failed+one.Failed
	f.unkept += im.unkept
	for reason, n := range one.Reasons {
		f.Reasons[reason] += n
	}
}

// realInputTable is the table in Markdown, and the reasons below it.
func realInputTable(all []fed) string {
	var b, why strings.Builder
	fmt.Fprint(&b, "| folder | kind | files | read | taken | duplicate | parked | refused | failed | stored | lost |\n|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n")
	total := fed{imported: &imported{}}
	for _, f := range all {
		if !f.fed {
			fmt.Fprintf(&b, "| %s | %s | %d | not taken | | | | | | | |\n", f.folder, f.Kind, f.Files)
			continue
		}
		fmt.Fprintf(&b, "| %s | %s | %d | %d | %d | %d | %d | %d | %d | %d | %d |\n", f.folder, f.Kind, f.Files, f.Read, f.Taken, f.Duplicate, f.Parked, f.Refused, f.Failed, f.stored, f.lost())
		for _, reason := range slices.SortedFunc(maps.Keys(f.Reasons), func(a, b string) int {
			return cmp.Or(f.Reasons[b]-f.Reasons[a], strings.Compare(a, b))
		}) {
			fmt.Fprintf(&why, "| %s | %s | %s | %d |\n", f.folder, f.Kind, strings.ReplaceAll(reason, "|", "\\|"), f.Reasons[reason])
		}
		if f.known {
			continue // the same messages again
		}
		t := total.imported
		t.Files, t.Read, t.Taken, t.Duplicate, t.Parked, t.Refused, t.Failed = t.Files+f.Files, t.Read+f.Read, t.Taken+f.Taken, t.Duplicate+f.Duplicate, t.Parked+f.Parked, t.Refused+f.Refused, t.Failed+f.Failed
		total.stored, total.unkept = total.stored+f.stored, total.unkept+f.unkept
	}
	fmt.Fprintf(&b, "| **all** | | %d | %d | %d | %d | %d | %d | %d | %d | %d |\n", total.Files, total.Read, total.Taken, total.Duplicate, total.Parked, total.Refused, total.Failed, total.stored, total.lost())
	fmt.Fprintf(&b, "\n| folder | kind | reason | count |\n|---|---|---|--:|\n%s", why.String())
	return b.String()
}

// between puts text between the markers of a file.
func between(name, text string) error {
	raw, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	begin, end := bytes.Index(raw, []byte(tableBegins)), bytes.Index(raw, []byte(tableEnds))
	if begin < 0 || end < begin {
		return fmt.Errorf("%s has no lines %q and %q", name, tableBegins, tableEnds)
	}
	out := slices.Concat(raw[:begin], []byte(tableBegins+"\n"), []byte(text), raw[end:])
	return os.WriteFile(name, out, 0o644)
}

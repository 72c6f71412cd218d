package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"waymark/services/cohort"
	"waymark/services/kit/es"
	"waymark/services/kit/nhs"
	"waymark/services/kit/run"
)

// importOptions of waymark import.
type importOptions struct {
	Parallel int    `flag:"parallel" default:"8" help:"patients of a cohort at a time; messages are taken one after the other"`
	DryRun   bool   `flag:"dry-run" help:"read and count, send nothing"`
	Trust    string `flag:"trust" help:"ODS code of the organisation that treats everybody of a Synthea cohort, which has no codes"`
	From     string `flag:"from" default:"RJ1" help:"ODS code of the organisation that FHIR documents come from"`
}

func (c *cli) importCommand() *cobra.Command {
	var t *target
	var o importOptions
	cmd := &cobra.Command{
		Use: "import PATH...", Short: "Take in files and folders: cohorts in Synthea's CSV, HL7 v2, FHIR",
		Long: `Take in files and folders, whatever they hold:

  * folders in the CSV format of Synthea (gzip or plain): each patient with cancer becomes a
    person and a pathway, by the same commands that people and systems send
  * HL7 v2 messages, one or many in a file, and batches
  * FHIR R4 in JSON: bundles, single resources, NDJSON

Nothing is taken twice: every command's id derives from its source. When it stops, for whatever
reason, run it again, and it goes on where it was; run it once more, and it changes nothing.
Rows and messages that are refused are counted by reason, with file, line and field.

Examples:
  waymark import ./cohort
  waymark import --dry-run ./cohort ./messages`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, paths []string) error {
			if o.Parallel < 1 || o.Parallel > 256 {
				return usage(cmd, errors.New("--parallel is 1 to 256"))
			}
			for flag, code := range map[string]string{"--trust": o.Trust, "--from": o.From} {
				if _, err := nhs.ParseODS(code); err != nil && code != "" {
					return usage(cmd, fmt.Errorf("%s: %w", flag, err))
				}
			}
			found, err := look(paths)
			if err != nil {
				return usage(nil, err)
			}
			return c.importAll(cmd.Context(), t, o, found)
		},
	}
	t = c.bindTarget(cmd)
	run.Bind(cmd.Flags(), &o)
	return cmd
}

// kindOfFile is what a file holds, by what stands in it.
type kindOfFile string

const (
	kindHL7  kindOfFile = "HL7 v2"
	kindFHIR kindOfFile = "FHIR"
	kindXML  kindOfFile = "FHIR in XML" // seen, and not taken
)

// sources is what there is to import.
type sources struct {
	cohorts map[string]fs.FS // by name
	files   map[kindOfFile][]string
	other   int // files of no kind that can be taken
}

// look finds what the paths hold.
func look(paths []string) (*sources, error) {
	f := &sources{cohorts: map[string]fs.FS{}, files: map[kindOfFile][]string{}}
	for _, path := range paths {
		err := filepath.WalkDir(path, func(name string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if d.IsDir() {
				if dir := os.DirFS(name); cohort.IsSynthea(dir) {
					f.cohorts[filepath.Base(name)] = dir
					return fs.SkipDir
				}
				return nil
			}
			kind, err := kindOf(name)
			if err != nil {
				return err
			}
			if kind == "" {
				f.other++
			} else {
				f.files[kind] = append(f.files[kind], name)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	if len(f.cohorts) == 0 && len(f.files) == 0 {
		return nil, fmt.Errorf("no cohort, HL7 v2 or FHIR in %s", strings.Join(paths, ", "))
	}
	return f, nil
}

// kindOf looks at the beginning of a file.
func kindOf(name string) (kindOfFile, error) {
	in, err := openMaybeGzip(name)
	if err != nil {
		return "", err
	}
	defer in.Close()
	head := make([]byte, 4096)
	n, _ := in.Read(head)
	head = bytes.ReplaceAll(head[:n], []byte{0}, nil) // UTF-16 of plain letters
	head = bytes.TrimLeft(head, "\xef\xbb\xbf\xff\xfe \t\r\n\v")
	ext := strings.TrimPrefix(filepath.Ext(strings.TrimSuffix(name, ".gz")), ".")
	switch {
	case bytes.HasPrefix(head, []byte("MSH")), bytes.HasPrefix(head, []byte("FHS")), bytes.HasPrefix(head, []byte("BHS")), ext == "hl7":
		return kindHL7, nil
	case (ext == "json" || ext == "ndjson") && bytes.HasPrefix(head, []byte("{")):
		whole, err := readMaybeGzip(name)
		if err != nil || !bytes.Contains(whole, []byte(`"resourceType"`)) {
			return "", err
		}
		var top struct {
			ResourceType json.RawMessage `json:"resourceType"`
		}
		if err := json.NewDecoder(bytes.NewReader(bytes.TrimPrefix(whole, []byte("\xef\xbb\xbf")))).Decode(&top); err == nil && top.ResourceType == nil {
			return "", nil // something else, which holds FHIR
		}
		return kindFHIR, nil // also where it is broken: that is to be said of it
	case ext == "xml" && bytes.Contains(head, []byte("http://hl7.org/fhir")):
		return kindXML, nil
	}
	return "", nil
}

// importer is one run of waymark import.
type importer struct {
	c    *cli
	o    importOptions
	conn *grpc.ClientConn
	head es.Position // where the log ended before

	mu     sync.Mutex // guards below
	report *importReport
	where  map[string]string // the first place of each reason
	unkept int               // messages that were refused before they were kept
}

// importReport is what an import says of itself.
type importReport struct {
	Sources []*imported    `json:"sources"`
	LeftOut int            `json:"files_of_no_kind,omitempty"`
	XML     int            `json:"fhir_xml_files_not_taken,omitempty"`
	Log     *importedLog   `json:"log,omitempty"`
	Seconds float64        `json:"seconds"`
	Limit   *importedLimit `json:"limit,omitempty"`
}

// imported counts one kind of source.
type imported struct {
	Kind  string `json:"kind"`
	Files int    `json:"files"` // of a cohort its folders
	// Unit is what is counted: commands, messages or documents. Read is the sum of
	// the five below.
	Unit      string         `json:"unit"`
	Read      int            `json:"read"`
	Taken     int            `json:"taken"`
	Duplicate int            `json:"duplicates"`
	Parked    int            `json:"parked"`
	Refused   int            `json:"refused"`
	Failed    int            `json:"failed"` // without an answer: to be sent again
	Patients  int            `json:"patients,omitempty"`
	Whole     int            `json:"patients_whole,omitempty"` // of whom every command was taken, now or before
	Rows      int            `json:"rows,omitempty"`
	BadRows   int            `json:"bad_rows,omitempty"`
	Reasons   map[string]int `json:"reasons,omitempty"`
	Seconds   float64        `json:"seconds"`
}

// importedLog is what the log has more than before.
type importedLog struct {
	Events        int     `json:"events"`
	Own           int     `json:"events_of_services_themselves"` // reactions and timers
	DataBytes     float64 `json:"data_bytes_per_event"`
	MetadataBytes float64 `json:"metadata_bytes_per_event"`
}

// importedLimit is what the machine can do, measured in this run.
type importedLimit struct {
	Echo     float64 `json:"echo_per_second"`
	Parallel int     `json:"parallel"`
}

func newImporter(c *cli, o importOptions, conn *grpc.ClientConn) *importer {
	return &importer{c: c, o: o, conn: conn, report: &importReport{}, where: map[string]string{}}
}

func (c *cli) importAll(ctx context.Context, t *target, o importOptions, f *sources) error {
	conn, err := t.dial()
	if err != nil {
		return usage(nil, err)
	}
	defer conn.Close()
	im := newImporter(c, o, conn)
	im.report.LeftOut, im.report.XML = f.other, len(f.files[kindXML])
	begun := time.Now()
	if !o.DryRun {
		if im.report.Limit, err = im.limit(ctx); err != nil {
			return unavailable("waymark doctor"+t.flags(), "the services at %s do not answer: %w", t.grpcAddress(), err)
		}
		if err := c.withLog(t, func(log es.Log) (err error) { im.head, err = log.Head(ctx); return err }); err != nil {
			return err
		}
		begun = time.Now()
	}
	if len(f.cohorts) > 0 {
		err = im.cohorts(ctx, f.cohorts)
	}
	if files := f.files[kindHL7]; err == nil && len(files) > 0 {
		err = im.hl7(ctx, files)
	}
	if files := f.files[kindFHIR]; err == nil && len(files) > 0 {
		err = im.fhir(ctx, files)
	}
	im.report.Seconds = time.Since(begun).Seconds()
	if !o.DryRun && ctx.Err() == nil {
		if err := c.withLog(t, func(log es.Log) error { return im.measure(ctx, log) }); err != nil {
			return err
		}
	}
	if printed := im.print(); err == nil {
		err = printed
	}
	for _, s := range im.report.Sources {
		if err == nil && s.Failed > 0 {
			err = fmt.Errorf("%d %s got no answer", s.Failed, s.Unit)
		}
	}
	if err != nil {
		return &coded{err, exitUnavailable, "run it again: it goes on where it stopped"}
	}
	return nil
}

// limit measures calls that do nothing, as many at a time as patients.
func (im *importer) limit(ctx context.Context) (*importedLimit, error) {
	const measured = time.Second
	client := healthv1.NewHealthClient(im.conn)
	ask := func() error { _, err := client.Check(ctx, &healthv1.HealthCheckRequest{}); return err }
	if err := ask(); err != nil {
		return nil, err
	}
	var n atomic.Int64
	begun := time.Now()
	err := eachOf(im.o.Parallel, im.o.Parallel, func(int) error {
		for time.Since(begun) < measured {
			if err := ask(); err != nil {
				return err
			}
			n.Add(1)
		}
		return nil
	})
	return &importedLimit{Echo: float64(n.Load()) / time.Since(begun).Seconds(), Parallel: im.o.Parallel}, err
}

// measure reads what the log has more than before.
func (im *importer) measure(ctx context.Context, log es.Log) error {
	var data, metadata int
	l := &importedLog{}
	err := log.ReadAll(ctx, im.head, func(e es.Recorded) error {
		l.Events, data, metadata = l.Events+1, data+len(e.Data), metadata+len(e.Metadata)
		if m, err := es.ParseMetadata(e); err != nil || strings.HasPrefix(m.Actor.User, "waymark/") && m.Actor.User != cohort.Actor {
			l.Own++
		}
		return nil
	})
	if l.Events > 0 {
		l.DataBytes, l.MetadataBytes = float64(data)/float64(l.Events), float64(metadata)/float64(l.Events)
	}
	im.report.Log = l
	return err
}

// source begins to count a kind of source.
func (im *importer) counting(kind, unit string, files int) *imported {
	s := &imported{Kind: kind, Unit: unit, Files: files, Reasons: map[string]int{}}
	im.report.Sources = append(im.report.Sources, s)
	return s
}

// because counts a reason and keeps where it was met first.
func (im *importer) because(s *imported, reason, where string) {
	s.Reasons[reason]++
	if key := s.Kind + reason; im.where[key] == "" {
		im.where[key] = where
	}
}

// eachOf runs do for 0 to n-1, so many at a time, and returns the first error,
// after which nothing new is begun.
func eachOf(n, parallel int, do func(i int) error) error {
	var wg sync.WaitGroup
	var next atomic.Int64
	var failed atomic.Pointer[error]
	for range min(n, parallel) {
		wg.Go(func() {
			for failed.Load() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if err := do(i); err != nil {
					failed.CompareAndSwap(nil, &err)
				}
			}
		})
	}
	wg.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}

func (im *importer) print() error {
	c, r := im.c, im.report
	if c.format == "json" || c.format == "ndjson" {
		return c.printJSON(r, c.format == "json")
	}
	var rows [][2]string
	line := func(what, format string, args ...any) {
		rows = append(rows, [2]string{what, fmt.Sprintf(format, args...)})
	}
	for _, s := range r.Sources {
		of := "files"
		if s.Patients > 0 {
			of = "folders"
		}
		line(s.Kind, "%d %s, %d %s in %.1f s", s.Files, of, s.Read, s.Unit, s.Seconds)
		if s.Rows > 0 {
			line("  rows", "%d, unusable %d", s.Rows, s.BadRows)
			line("  patients", "%d, whole %d", s.Patients, s.Whole)
		}
		line("  taken", "%d", s.Taken)
		line("  duplicates", "%d", s.Duplicate)
		line("  parked", "%d", s.Parked)
		line("  refused", "%d", s.Refused)
		if s.Failed > 0 {
			line("  failed", "%d", s.Failed)
		}
		for _, reason := range slices.SortedFunc(maps.Keys(s.Reasons), func(a, b string) int { return cmp.Or(s.Reasons[b]-s.Reasons[a], strings.Compare(a, b)) }) {
			line("    "+reason, "%d  (first: %s)", s.Reasons[reason], im.where[s.Kind+reason])
		}
		if s.Seconds > 0 && !im.o.DryRun {
			rate := float64(s.Taken+s.Duplicate+s.Parked+s.Refused) / s.Seconds
			line("  rate", "%.0f %s/s", rate, s.Unit)
		}
	}
	if r.XML > 0 {
		line("FHIR in XML", "%d files, not taken: convert them to JSON", r.XML)
	}
	if r.LeftOut > 0 {
		line("files of no kind", "%d", r.LeftOut)
	}
	if l := r.Log; l != nil {
		line("events recorded", "%d, %.0f/s, of them by the services' own reactions and timers %d", l.Events, float64(l.Events)/r.Seconds, l.Own)
		if l.Events > 0 {
			line("  bytes an event", "%.0f data, %.0f metadata", l.DataBytes, l.MetadataBytes)
		}
	}
	if r.Limit != nil {
		line("limit here and now", "%.0f empty calls/s, %d at a time", r.Limit.Echo, r.Limit.Parallel)
	}
	return list(c, []string{"WHAT", "COUNT"}, rows, func(r [2]string) []string { return r[:] })
}

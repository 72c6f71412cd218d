package cohort

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"

	"waymark/services/kit/nhs"
)

// Fault is a row that cannot be used. It names the field and never its value.
type Fault struct {
	At    Place
	Field string
	Code  string
}

func (f Fault) String() string { return fmt.Sprintf("%s %s: %s", f.At, f.Field, f.Code) }

// Options of Synthea.
type Options struct {
	// Trust, where set, is the ODS code of the organisation that treats everybody:
	// the source has organisations, but no codes.
	Trust string
}

// Cohort is what was read.
type Cohort struct {
	Journeys       []*Journey
	Neighbourhoods map[string]*Neighbourhood
	Faults         []Fault
	Rows           int
}

// syntheaFiles must be there; the others may.
var syntheaFiles = []string{"patients", "conditions", "encounters"}

// IsSynthea reports whether a folder holds a Synthea export.
func IsSynthea(dir fs.FS) bool {
	for _, name := range syntheaFiles {
		if file, err := openCSV(dir, name); err != nil {
			return false
		} else {
			file.Close()
		}
	}
	return true
}

// What the codes of the source (SNOMED CT) say. Only cancers are read.
var (
	cancers = map[string]string{
		"254837009": "breast", "254637007": "lung", "424132000": "lung", "254632001": "lung", "67811000119102": "lung",
		"109838007": "colorectal", "363406005": "colorectal", "94260004": "colorectal", "93761005": "colorectal", "91861009": "blood",
	}
	findings = map[string]string{"254637007": "non-small cell", "254632001": "small cell", "109838007": "overlapping", "94260004": "secondary of the colon"}
	stages   = map[string]string{"424132000": "TNM stage 1", "67811000119102": "TNM stage 1"}
	// Reasons for encounters that lead to a diagnosis.
	suspicions = map[string]string{
		"162573006": "lung", "268547008": "breast", "268533008": "breast", "275978004": "colorectal", "68496003": "colorectal", "713197008": "colorectal",
	}
	treatments = map[string]string{
		"392021009": "01", "69031006": "01", "43075005": "01", "387607004": "01", "234262008": "01",
		"367336001": "02", "703423002": "04", "33195004": "05", "108290001": "05", "385798007": "05", "447759004": "06", "384692006": "06", "113120007": "06",
	}
	carePlans = map[string]bool{"395082007": true, "182964004": true, "737567002": true}
	worries   = map[string]string{
		"73595000": "emotional.worry", "80583007": "emotional.worry", "423315002": "emotional.loneliness", "73438004": "practical.work",
		"105531004": "practical.money", "713458007": "practical.transport", "266934004": "practical.transport",
		"82423001": "physical.pain", "278860009": "physical.pain", "271737000": "physical.fatigue", "55680006": "lifestyle.alcohol",
	}
	discussions = map[string]bool{"223487003": true}
)

// patient is what the files say of one, before it is a journey.
type patient struct {
	*Journey
	state      string
	encounters map[string]*encounter
	order      []*encounter
	first      map[string]string   // first day of a cancer, by site
	began      map[string]string   // encounter of that day
	suspected  map[string][]string // days, by site
	found      map[string][]string // words of histology and receptors, by site
	staged     map[string]string
	tnm        map[string]string
	done       []procedure
	plans      []procedure // START of care plans, by reason
	concerns   map[string]string
	talked     []string
}

type encounter struct {
	id, class, org, provider, reason, code, text string
	start, stop                                  time.Time
}

type procedure struct {
	site, modality string
	start, stop    string
	encounter      string
}

// Synthea reads folders in the CSV format of Synthea, gzip or plain, each with
// patients, conditions and encounters at least. Names of folders go into faults.
func Synthea(folders map[string]fs.FS, opts Options) (*Cohort, error) {
	c := &Cohort{Neighbourhoods: map[string]*Neighbourhood{}}
	for _, name := range slices.Sorted(maps.Keys(folders)) {
		r := &reader{cohort: c, dir: folders[name], name: name, opts: opts, patients: map[string]*patient{}, orgs: map[string]Organisation{}, states: map[string]string{}, leads: map[string]*Lead{}}
		if err := r.read(); err != nil {
			return nil, err
		}
	}
	for _, n := range c.Neighbourhoods {
		slices.Sort(n.Practices)
		n.Practices = slices.Compact(n.Practices)
	}
	number(c.Journeys)
	return c, nil
}

type reader struct {
	cohort   *Cohort
	dir      fs.FS
	name     string
	opts     Options
	patients map[string]*patient
	orgs     map[string]Organisation
	states   map[string]string
	leads    map[string]*Lead // by practice
	asOf     time.Time
}

func (r *reader) read() error {
	for _, step := range []struct {
		file string
		need []string
		row  func(row) error
	}{
		{"organizations", []string{"Id", "NAME", "STATE"}, r.organisation},
		{"providers", []string{"Id", "ORGANIZATION", "NAME"}, r.provider},
		{"patients", []string{"Id", "BIRTHDATE", "DEATHDATE", "FIRST", "LAST", "STATE"}, r.patient},
		{"encounters", []string{"Id", "START", "STOP", "PATIENT", "ORGANIZATION", "ENCOUNTERCLASS", "CODE", "REASONCODE"}, r.encounter},
		{"conditions", []string{"START", "PATIENT", "ENCOUNTER", "CODE"}, r.condition},
		{"observations_cancer", []string{"DATE", "PATIENT", "CODE", "VALUE"}, r.observation},
		{"procedures", []string{"START", "STOP", "PATIENT", "ENCOUNTER", "CODE", "REASONCODE"}, r.procedure},
		{"careplans", []string{"START", "PATIENT", "CODE", "REASONCODE"}, r.carePlan},
	} {
		if err := r.file(step.file, step.need, step.row); err != nil {
			return err
		}
	}
	ids := slices.Sorted(maps.Keys(r.patients))
	for _, id := range ids {
		if j := r.journey(r.patients[id]); len(j.Courses) > 0 {
			r.cohort.Journeys = append(r.cohort.Journeys, j)
		} else {
			r.fault(j.At, "CODE", "patient.no_cancer")
		}
	}
	return nil
}

func (r *reader) fault(at Place, field, code string) {
	r.cohort.Faults = append(r.cohort.Faults, Fault{at, field, code})
}

// row is one line of a file, by its columns.
type row struct {
	at     Place
	column map[string]int
	values []string
}

func (r row) get(name string) string {
	if i, ok := r.column[name]; ok && i < len(r.values) {
		return strings.TrimSpace(r.values[i])
	}
	return ""
}

// bad is a fault of one row.
type bad struct{ field, code string }

func (b bad) Error() string { return b.field + ": " + b.code }

func (r row) time(name string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, r.get(name))
	if err != nil {
		return t, bad{name, "row.time"}
	}
	return t, nil
}

// day reads a date, or the day of a time in England.
func (r row) day(name string) (string, error) {
	text := r.get(name)
	if len(text) > 10 {
		t, err := r.time(name)
		return day(t), err
	}
	d, err := nhs.ParseDate(text)
	if err != nil {
		return "", bad{name, "row.date"}
	}
	return d.String(), nil
}

func openCSV(dir fs.FS, name string) (io.ReadCloser, error) {
	f, err := dir.Open(name + ".csv")
	if !errors.Is(err, fs.ErrNotExist) {
		return f, err
	}
	if f, err = dir.Open(name + ".csv.gz"); err != nil {
		return nil, err
	}
	z, err := gzip.NewReader(bufio.NewReader(f))
	if err != nil {
		f.Close()
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{z, f}, nil
}

// file gives each row of a file to use; a row that it cannot use is a fault, and
// the others go on.
func (r *reader) file(name string, need []string, use func(row) error) error {
	f, err := openCSV(r.dir, name)
	if errors.Is(err, fs.ErrNotExist) && !slices.Contains(syntheaFiles, name) {
		return nil
	}
	at := Place{File: r.name + "/" + name + ".csv"}
	if err != nil {
		return fmt.Errorf("%s: %w", at.File, err)
	}
	defer f.Close()
	in := bufio.NewReader(f)
	if mark, _ := in.Peek(3); bytes.Equal(mark, []byte("\xef\xbb\xbf")) {
		in.Discard(3)
	}
	lines := csv.NewReader(in)
	lines.FieldsPerRecord, lines.ReuseRecord = -1, true
	var head row
	for {
		values, err := lines.Read()
		if err == io.EOF {
			return nil
		}
		at.Line, _ = lines.FieldPos(0)
		var broken *csv.ParseError
		if errors.As(err, &broken) {
			at.Line = broken.Line
			r.fault(at, "-", "row.unreadable")
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
		if head.column == nil {
			head.column = map[string]int{}
			for i, v := range values {
				head.column[strings.TrimSpace(v)] = i
			}
			for _, n := range need {
				if _, ok := head.column[n]; !ok {
					return fmt.Errorf("%s has no column %s: is it a file of Synthea?", at.File, n)
				}
			}
			continue
		}
		r.cohort.Rows++
		var b bad
		if err := use(row{at: at, column: head.column, values: values}); errors.As(err, &b) {
			r.fault(at, b.field, b.code)
		} else if err != nil {
			return err
		}
	}
}

func (r *reader) organisation(row row) error {
	id := strings.Clone(row.get("Id"))
	r.orgs[id] = Organisation{Code: Code("synthea", id), Name: cut(row.get("NAME"), 100)}
	r.states[id] = strings.Clone(row.get("STATE"))
	return nil
}

// home is the neighbourhood of a county.
func (r *reader) home(state string) *Neighbourhood {
	if state == "" {
		return nil
	}
	id := "synthea-" + strings.Map(func(c rune) rune {
		switch {
		case c >= 'A' && c <= 'Z':
			return c + 'a' - 'A'
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9':
			return c
		}
		return '-'
	}, state)
	if r.cohort.Neighbourhoods[id] == nil {
		name := cut(state, 80)
		r.cohort.Neighbourhoods[id] = &Neighbourhood{ID: id, Name: name, Host: Organisation{Code("synthea", "host/"+id), name}}
	}
	return r.cohort.Neighbourhoods[id]
}

func cut(text string, most int) string {
	runes := []rune(strings.TrimSpace(text))
	return string(runes[:min(len(runes), most)])
}

// provider makes the first provider of a practice, by id, its lead.
func (r *reader) provider(row row) error {
	practice, id := strings.Clone(row.get("ORGANIZATION")), strings.Clone(row.get("Id"))
	if l := r.leads[practice]; l != nil && l.ID <= "synthea-"+id {
		return nil
	}
	r.leads[practice] = &Lead{ID: "synthea-" + id, Name: cut(row.get("NAME"), 100), User: user("synthea", "lead/"+id), Organisation: Code("synthea", practice), Capacity: 500}
	return nil
}

func (r *reader) patient(row row) error {
	born, err := row.day("BIRTHDATE")
	if err != nil {
		return err
	}
	died := ""
	if row.get("DEATHDATE") != "" {
		if died, err = row.day("DEATHDATE"); err != nil {
			return err
		}
	}
	id := strings.Clone(row.get("Id"))
	switch {
	case id == "" || len(id) > 50:
		return bad{"Id", "row.id"}
	case row.get("LAST") == "":
		return bad{"LAST", "row.empty"}
	case died != "" && died < born:
		return bad{"DEATHDATE", "row.before_birth"}
	case r.patients[id] != nil:
		return bad{"Id", "row.twice"}
	}
	j := &Journey{Source: "synthea", ID: id, At: row.at, Family: cut(row.get("LAST"), 100), Prefix: cut(row.get("PREFIX"), 35), Born: born, Died: died}
	for _, name := range []string{"FIRST", "MIDDLE"} {
		if v := cut(row.get(name), 100); v != "" {
			j.Given = append(j.Given, v)
		}
	}
	for _, name := range []string{"ADDRESS", "CITY", "ZIP"} {
		if v := cut(row.get(name), 120); v != "" {
			j.Address = append(j.Address, v)
		}
	}
	r.patients[id] = &patient{Journey: j, state: strings.Clone(row.get("STATE")), encounters: map[string]*encounter{}, first: map[string]string{}, began: map[string]string{}, suspected: map[string][]string{},
		found: map[string][]string{}, staged: map[string]string{}, tnm: map[string]string{}, concerns: map[string]string{}}
	return nil
}

// of is the patient of a row.
func (r *reader) of(row row) (*patient, error) {
	p := r.patients[row.get("PATIENT")]
	if p == nil {
		return nil, bad{"PATIENT", "row.patient_unknown"}
	}
	return p, nil
}

func (r *reader) encounter(row row) error {
	p, err := r.of(row)
	if err != nil {
		return err
	}
	e := &encounter{id: strings.Clone(row.get("Id")), class: strings.Clone(row.get("ENCOUNTERCLASS")), org: strings.Clone(row.get("ORGANIZATION")), provider: strings.Clone(row.get("PROVIDER")),
		reason: strings.Clone(row.get("REASONCODE")), code: strings.Clone(row.get("CODE")), text: cut(row.get("DESCRIPTION"), 100)}
	if e.start, err = row.time("START"); err != nil {
		return err
	}
	if e.stop, err = row.time("STOP"); err != nil {
		return err
	}
	if !e.stop.After(e.start) {
		e.stop = e.start.Add(time.Minute)
	}
	if e.id == "" || len(e.id) > 60 {
		return bad{"Id", "row.id"}
	}
	if e.start.After(r.asOf) {
		r.asOf = e.start
	}
	p.encounters[e.id] = e
	p.order = append(p.order, e)
	return nil
}

func (r *reader) condition(row row) error {
	p, err := r.of(row)
	if err != nil {
		return err
	}
	code := row.get("CODE")
	site, suspicion, worry := cancers[code], suspicions[code], worries[code]
	if site == "" && suspicion == "" && worry == "" {
		return nil
	}
	on, err := row.day("START")
	if err != nil {
		return err
	}
	switch {
	case site != "":
		if p.first[site] == "" || on < p.first[site] {
			p.first[site], p.began[site] = on, strings.Clone(row.get("ENCOUNTER"))
		}
		if f := findings[code]; f != "" && !slices.Contains(p.found[site], f) {
			p.found[site] = append(p.found[site], f)
		}
		if s := stages[code]; s != "" {
			p.staged[site] = s
		}
	case suspicion != "":
		p.suspected[suspicion] = append(p.suspected[suspicion], on)
	default:
		if p.concerns[worry] == "" || on < p.concerns[worry] {
			p.concerns[worry] = on
		}
	}
	return nil
}

// observation reads stage and receptors, which the source has for breast alone.
func (r *reader) observation(row row) error {
	p, err := r.of(row)
	if err != nil {
		return err
	}
	value, _, _ := strings.Cut(row.get("VALUE"), " (")
	value = strings.TrimSpace(strings.TrimSuffix(value, " category"))
	const site = "breast"
	receptor := map[string]string{"85337-4": "ER", "85339-0": "PR", "85319-2": "HER2"}[row.get("CODE")]
	switch part := map[string]string{"21905-5": "T", "21906-3": "N", "21907-1": "M"}[row.get("CODE")]; {
	case part != "" && p.tnm[part] == "":
		p.tnm[part] = strings.Clone(value)
	case row.get("CODE") == "21908-9" && p.staged[site] == "":
		p.staged[site] = strings.ToLower(value)
	case receptor != "" && len(value) < 20:
		if text := receptor + " " + strings.ToLower(value); !slices.ContainsFunc(p.found[site], func(f string) bool { return strings.HasPrefix(f, receptor) }) {
			p.found[site] = append(p.found[site], text)
		}
	}
	return nil
}

func (r *reader) procedure(row row) error {
	p, err := r.of(row)
	if err != nil {
		return err
	}
	code := row.get("CODE")
	modality := treatments[code]
	if modality == "" && !discussions[code] {
		return nil
	}
	start, err := row.day("START")
	if err != nil {
		return err
	}
	if discussions[code] {
		p.talked = append(p.talked, start)
		return nil
	}
	stop := start
	if row.get("STOP") != "" {
		if stop, err = row.day("STOP"); err != nil {
			return err
		}
	}
	site := cancers[row.get("REASONCODE")]
	if site == "" && row.get("REASONCODE") == "" {
		if e := p.encounters[row.get("ENCOUNTER")]; e != nil {
			site = cancers[e.reason]
		}
	}
	if site != "" {
		p.done = append(p.done, procedure{site: site, modality: modality, start: start, stop: max(start, stop), encounter: strings.Clone(row.get("ENCOUNTER"))})
	}
	return nil
}

func (r *reader) carePlan(row row) error {
	p, err := r.of(row)
	if err != nil {
		return err
	}
	site := cancers[row.get("REASONCODE")]
	if site == "" || !carePlans[row.get("CODE")] {
		return nil
	}
	on, err := row.day("START")
	if err != nil {
		return err
	}
	p.plans = append(p.plans, procedure{site: site, start: on})
	return nil
}

package cohort

import (
	"bufio"
	"bytes"
	"cmp"
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

	referralv1 "waymark/proto/waymark/referral/v1"
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

// journey puts together what the files said of a patient.
func (r *reader) journey(p *patient) *Journey {
	j := p.Journey
	j.AsOf, j.Sent = day(r.asOf), r.asOf
	slices.SortStableFunc(p.order, func(a, b *encounter) int { return a.start.Compare(b.start) })
	practice := r.practice(p)
	j.Practice = r.orgs[practice]
	j.Home = r.home(cmp.Or(r.states[practice], p.state))
	j.Lead = r.leads[practice]
	if j.Home != nil && j.Practice.Code != "" && !slices.Contains(j.Home.Practices, j.Practice.Code) {
		j.Home.Practices = append(j.Home.Practices, j.Practice.Code)
	}
	for _, site := range slices.SortedFunc(maps.Keys(p.first), func(a, b string) int {
		return cmp.Or(strings.Compare(p.first[a], p.first[b]), strings.Compare(a, b))
	}) {
		j.Courses = append(j.Courses, r.course(p, site))
	}
	return j
}

// practice is where the patient was for a check-up last.
func (r *reader) practice(p *patient) (id string) {
	for _, e := range p.order {
		if e.class == "wellness" && r.orgs[e.org].Code != "" || id == "" && r.orgs[e.org].Code != "" {
			id = e.org
		}
	}
	return id
}

// Where the source does not say that something has ended, this long without it
// is taken for the end.
const (
	betweenDoses   = 100 // days within one course of a modality
	betweenPeriods = 120 // days without treatment between two periods
	stillGoing     = 90  // days before the end of the source
	followUpYears  = 5
)

func (r *reader) course(p *patient, site string) *Course {
	dx := p.first[site]
	c := &Course{Site: Sites[site], ID: site, Told: dx, Seen: dx, Source: "03", Plan: true, Stage: stage(p, site), Finding: strings.Join(p.found[site], ", "),
		Arrangement: referralv1.FollowUpArrangement_FOLLOW_UP_ARRANGEMENT_CLINIC}
	if site == "breast" {
		c.Arrangement = referralv1.FollowUpArrangement_FOLLOW_UP_ARRANGEMENT_PATIENT_INITIATED
	}
	c.Received = r.received(p, site, dx, c)
	if seen := r.seen(p, site, c.Received, dx); seen != "" {
		c.Seen = seen
	}
	c.Team = r.team(p, site)
	r.needs(p, site, c)
	r.treat(p, site, c)
	r.handover(p, c)
	r.contacts(p, site, c)
	return c
}

func stage(p *patient, site string) string {
	var parts []string
	if site == "breast" {
		for _, k := range []string{"T", "N", "M"} {
			if p.tnm[k] != "" {
				parts = append(parts, p.tnm[k])
			}
		}
	}
	out := strings.Join(parts, " ")
	if s := p.staged[site]; s != "" {
		out = strings.TrimPrefix(out+", "+s, ", ")
	}
	return out
}

// about reports whether an encounter is about the cancer of a site.
func about(e *encounter, site string) bool {
	return cancers[e.reason] == site || suspicions[e.reason] == site
}

// received is the day on which the way to the diagnosis began, at most 60 days
// before it.
func (r *reader) received(p *patient, site, dx string, c *Course) string {
	from, out := plus(dx, -60), dx
	for _, on := range p.suspected[site] {
		if on >= from && on < out {
			out = on
		}
	}
	for _, e := range p.order {
		on := day(e.start)
		if on < from || on > dx || !(about(e, site) || e.id == p.began[site]) {
			continue
		}
		out = min(out, on)
		switch {
		case e.code == "86013001" || e.reason == "268547008" || e.reason == "275978004":
			c.Source = "17" // a screening programme
		case e.class == "emergency":
			c.Source = "10"
		}
	}
	return out
}

func (r *reader) seen(p *patient, site, received, dx string) string {
	for _, e := range p.order {
		on := day(e.start)
		if on >= received && on <= dx && (about(e, site) || e.id == p.began[site]) && (e.class == "ambulatory" || e.class == "outpatient" || e.class == "inpatient") {
			return on
		}
	}
	return ""
}

// team is that of the organisation which treats most of it.
func (r *reader) team(p *patient, site string) Organisation {
	count := map[string]int{}
	for _, e := range p.order {
		if cancers[e.reason] == site && r.orgs[e.org].Code != "" {
			count[e.org]++
		}
	}
	best := ""
	for id, n := range count {
		if best == "" || n > count[best] || n == count[best] && id < best {
			best = id
		}
	}
	org := r.orgs[best]
	if org.Code == "" {
		if e := p.encounters[p.began[site]]; e != nil {
			org = r.orgs[e.org]
		}
	}
	if org.Code == "" {
		org = Organisation{Code: Code("synthea", "unknown/"+p.state), Name: cmp.Or(p.state, "Unknown")}
	}
	if r.opts.Trust != "" {
		org.Code = r.opts.Trust
	}
	org.Name = cut(org.Name, 90) + " " + Sites[site].Name
	return org
}

// needs is an assessment where the source has a care plan for the cancer.
func (r *reader) needs(p *patient, site string, c *Course) {
	on := ""
	for _, plan := range p.plans {
		if plan.site == site && (on == "" || plan.start < on) {
			on = plan.start
		}
	}
	if on == "" {
		return
	}
	c.Needs = &Assessment{On: max(on, c.Told)}
	for _, code := range slices.Sorted(maps.Keys(p.concerns)) {
		if p.concerns[code] <= c.Needs.On {
			c.Needs.Concerns = append(c.Needs.Concerns, Concern{code, 3 + int32(user("synthea", p.ID+code)[11]-'0')/2})
		}
	}
}

// treat makes treatments of the procedures, and periods of the treatments.
func (r *reader) treat(p *patient, site string, c *Course) {
	byModality := map[string][]procedure{}
	for _, x := range p.done {
		if x.site == site && x.start >= c.Told {
			byModality[x.modality] = append(byModality[x.modality], x)
		}
	}
	type run struct{ modality, start, stop, encounter string }
	var runs []run
	for _, m := range slices.Sorted(maps.Keys(byModality)) {
		all := byModality[m]
		slices.SortStableFunc(all, func(a, b procedure) int { return strings.Compare(a.start, b.start) })
		for _, x := range all {
			if n := len(runs); n > 0 && runs[n-1].modality == m && x.start <= plus(runs[n-1].stop, betweenDoses) {
				runs[n-1].stop = max(runs[n-1].stop, x.stop)
				continue
			}
			runs = append(runs, run{m, x.start, x.stop, x.encounter})
		}
	}
	slices.SortStableFunc(runs, func(a, b run) int {
		return cmp.Or(strings.Compare(a.start, b.start), strings.Compare(a.modality, b.modality))
	})
	last := earlier(p.Died, day(r.asOf))
	reached := ""
	for i, x := range runs {
		t := Treatment{Started: x.start, Decided: x.start, Modality: x.modality, Setting: referralv1.TreatmentSetting_TREATMENT_SETTING_OUTPATIENT}
		if e := p.encounters[x.encounter]; e != nil && e.class == "inpatient" {
			t.Setting = referralv1.TreatmentSetting_TREATMENT_SETTING_ORDINARY_ADMISSION
		}
		if i == 0 {
			t.Decided = c.Told
			for _, on := range p.talked {
				if on >= c.Told && on <= x.start {
					t.Decided = max(t.Decided, on)
				}
			}
		}
		reached = max(reached, x.stop)
		final := i == len(runs)-1
		switch {
		case reached > last: // the source ends in the middle of it
		case !final && runs[i+1].start > plus(reached, betweenPeriods):
			t.Ended = reached
		case final && plus(reached, stillGoing) < last:
			t.Ended, t.Last = reached, true
		}
		if t.Ended != "" {
			reached = ""
		}
		c.Treatment = append(c.Treatment, t)
	}
}

// earlier is the first of two days, of which the first may be missing.
func earlier(died, end string) string {
	if died != "" && died < end {
		return died
	}
	return end
}

// handover follows the last treatment, unless that is long ago: then the follow-up
// is complete.
func (r *reader) handover(p *patient, c *Course) {
	n := len(c.Treatment)
	if n == 0 || !c.Treatment[n-1].Last {
		return
	}
	ended := c.Treatment[n-1].Ended
	complete := years(ended, followUpYears)
	if complete <= earlier(p.Died, day(r.asOf)) {
		c.Closed, c.Reason = complete, referralv1.CloseReason_CLOSE_REASON_FOLLOW_UP_COMPLETE
		return
	}
	if p.Lead == nil || p.Home == nil {
		return
	}
	c.Handover = Accepted
	from := plus(ended, 28)
	for _, e := range p.order {
		if on := day(e.start); r.orgs[e.org].Code == p.Practice.Code && on >= from && (p.Died == "" || on < p.Died) {
			c.Contacted = on
			break
		}
	}
}

func years(on string, n int) string {
	d, err := nhs.ParseDate(on)
	if err != nil {
		return on
	}
	return nhs.DateOf(d.Start().Add(12*time.Hour).AddDate(n, 0, 0)).String()
}

// contacts are the encounters that are about the cancer, from the referral to the
// end of the pathway.
func (r *reader) contacts(p *patient, site string, c *Course) {
	treated := map[string]bool{}
	for _, x := range p.done {
		if x.site == site {
			treated[x.encounter] = true
		}
	}
	end := earlier(p.Died, day(r.asOf))
	if c.Closed != "" {
		end = min(end, c.Closed)
	}
	for _, e := range p.order {
		on := day(e.start)
		if on < c.Received || on > end || e.class == "wellness" || !(about(e, site) || treated[e.id] || e.id == p.began[site]) {
			continue
		}
		at := r.orgs[e.org]
		if at.Code == "" {
			at = c.Team
		}
		c.Contacts = append(c.Contacts, Contact{ID: e.id, Start: e.start, End: e.stop, At: at, Purpose: e.text, Remote: e.class == "virtual",
			Stay: e.class == "inpatient" || e.class == "hospice" || e.class == "emergency", Emergency: e.class == "emergency"})
	}
	// Who is followed up in clinic has another appointment to be made.
	if n := len(c.Contacts); n > 0 && c.Closed == "" && p.Died == "" && c.Handover == NoHandover {
		c.Contacts[n-1].Next = true
	}
}

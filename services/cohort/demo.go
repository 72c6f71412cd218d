package cohort

import (
	_ "embed"
	"encoding/csv"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	referralv1 "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/nhs"
)

// waits.csv says where its figures come from.
//
//go:embed waits.csv
var waitsCSV string

// band is so many patients who waited from so many days to so many.
type band struct {
	from, to, patients int
}

// longest is where a published band without an end is cut.
const longest = 60

// waits are the bands by what was waited for and site, and by what the sites.
var waits = sync.OnceValue(func() map[string]map[string][]band {
	in := csv.NewReader(strings.NewReader(waitsCSV))
	in.Comment = '#'
	rows, err := in.ReadAll()
	if err != nil {
		panic(err) // embedded
	}
	out := map[string]map[string][]band{}
	for _, r := range rows[1:] {
		if out[r[0]] == nil {
			out[r[0]] = map[string][]band{}
		}
		from, _ := strconv.Atoi(r[2])
		to, err := strconv.Atoi(r[3])
		if err != nil {
			to = from + longest
		}
		n, err := strconv.Atoi(r[4])
		if err != nil {
			panic(err)
		}
		out[r[0]][r[1]] = append(out[r[0]][r[1]], band{from, to, n})
	}
	return out
})

// draw takes one of the bands by how many patients they have, and a day in it.
func draw(r *rand.Rand, bands []band) int {
	total := 0
	for _, b := range bands {
		total += b.patients
	}
	for n := r.IntN(max(total, 1)); len(bands) > 0; bands = bands[1:] {
		if b := bands[0]; n < b.patients {
			return b.from + r.IntN(b.to-b.from+1)
		}
		n -= bands[0].patients
	}
	return 0
}

// site draws one by how many patients waited for something.
func site(r *rand.Rand, what string) string {
	all := waits()[what]
	var names []string
	var sizes []band
	for name := range all {
		names = append(names, name)
	}
	slices.Sort(names)
	for i, name := range names {
		n := 0
		for _, b := range all[name] {
			n += b.patients
		}
		sizes = append(sizes, band{i, i, n})
	}
	return names[draw(r, sizes)]
}

// The demonstration's trusts, and its neighbourhoods with their practice and lead.
var (
	demoTrusts = []string{"RJ1", "RJZ", "RRV"}
	demoHomes  = []struct{ id, name, host, practice, lead, of string }{
		{"peckham", "Peckham", "RRV", "G85004", "lead-mensah", "A. Mensah"},
		{"brixton", "Brixton", "RJZ", "G85005", "lead-silva", "J. Silva"},
		{"camberwell", "Camberwell", "RJ1", "G85006", "lead-khan", "R. Khan"},
	}
	demoFamilies = []string{"Ashdown", "Barlow", "Castle", "Draper", "Eastwood", "Farrow", "Greaves", "Holt", "Ingram", "Jessop", "Kirby", "Langton", "Mercer", "Norris", "Oakley", "Penrose", "Quill", "Rowe", "Sefton", "Thorne"}
	demoGiven    = []string{"Alma", "Bruno", "Cora", "Dinah", "Edwin", "Freya", "Gus", "Hester", "Ivo", "Joan", "Karl", "Lena", "Miles", "Nora", "Otis", "Priya", "Rhys", "Selma", "Tomas", "Uma"}
)

// Demo draws journeys that reach to today from published figures: the mix of sites
// and the days to first seen, told and treated are those of England in one month;
// how many are in which stage, everything of the handover, and all names are made
// up. The same n, seed and day give the same journeys.
func Demo(n int, seed uint64, today nhs.Date) *Cohort {
	c := &Cohort{Neighbourhoods: map[string]*Neighbourhood{}}
	homes := make([]*Neighbourhood, len(demoHomes))
	leads := make([]*Lead, len(demoHomes))
	for i, h := range demoHomes {
		homes[i] = &Neighbourhood{ID: h.id, Name: h.name, Host: Organisation{Code: h.host, Name: h.host}, Practices: []string{h.practice}}
		leads[i] = &Lead{ID: h.lead, Name: h.of, User: user("demo", h.lead), Organisation: h.host, Capacity: 40}
		c.Neighbourhoods[h.id] = homes[i]
	}
	r := rand.New(rand.NewPCG(seed, 0))
	for i := range n {
		h := r.IntN(len(homes))
		j := &Journey{Source: "demo", ID: fmt.Sprintf("%d-%03d", seed, i+1), At: Place{File: "demo", Line: i + 1}, AsOf: today.String(), Sent: today.Start(),
			Family: demoFamilies[r.IntN(len(demoFamilies))], Given: []string{demoGiven[r.IntN(len(demoGiven))]},
			Born:     today.AddDays(-365*(35+r.IntN(50)) - r.IntN(365)).String(),
			Practice: Organisation{Code: homes[h].Practices[0]}, Home: homes[h], Lead: leads[h]}
		j.Courses = []*Course{demoCourse(r, i, n, j, today)}
		c.Journeys = append(c.Journeys, j)
	}
	number(c.Journeys)
	return c
}

// demoCourse draws one course. Stages follow from how long ago the referral came;
// the referrals of the demonstration are spread over the past fourteen months, more of them new.
func demoCourse(r *rand.Rand, i, n int, j *Journey, today nhs.Date) *Course {
	cancer := r.IntN(3) > 0 // of all who are referred it is one in fifteen; here most of what there is to see
	what := "seen"
	if cancer {
		what = "treated"
	}
	name := site(r, what)
	trust := demoTrusts[r.IntN(len(demoTrusts))]
	ago := 1 + i*i*420/(n*n) + r.IntN(20)
	received := today.AddDays(-ago)
	c := &Course{Site: Sites[name], ID: name, Source: "03", Received: received.String(), Plan: true,
		Team: Organisation{Code: trust, Name: trust + " " + Sites[name].Name}, Arrangement: referralv1.FollowUpArrangement_FOLLOW_UP_ARRANGEMENT_PATIENT_INITIATED}
	seen := draw(r, waits()["seen"][name])
	told := max(seen, draw(r, waits()["told"][name]))
	treated := max(told+3, draw(r, waits()["treated"][name]))
	length := 20 + r.IntN(100)
	handover := []Handover{NoHandover, Prepared, Offered, Accepted, Accepted, Accepted}[r.IntN(6)]
	on := func(days int) string { return received.AddDays(days).String() }
	appointment := func(of string, days int, at Organisation) {
		start := received.AddDays(days).Start().Add(time.Duration(9+r.IntN(7)) * time.Hour)
		c.Contacts = append(c.Contacts, Contact{ID: fmt.Sprintf("%s-%s", j.ID, of), Start: start, End: start.Add(20 * time.Minute), At: at, Purpose: of, Next: true})
	}
	appointment("first appointment", seen, c.Team)
	if seen > ago {
		return c
	}
	c.Seen = on(seen)
	if told > seen {
		appointment("result", told, c.Team)
	}
	if told > ago {
		return c
	}
	if !cancer {
		c.RuledOut, c.Closed, c.Reason = on(told), on(told), referralv1.CloseReason_CLOSE_REASON_CANCER_RULED_OUT
		return c
	}
	c.Told = on(told)
	c.Stage = []string{"T1 N0 M0", "T2 N0 M0", "T2 N1 M0", "T3 N1 M0", ""}[r.IntN(5)]
	if r.IntN(3) > 0 && told+10 < ago {
		c.Needs = &Assessment{On: on(told + 7), Concerns: []Concern{{"emotional.worry", int32(3 + r.IntN(5))}, {"physical.fatigue", int32(2 + r.IntN(6))}}}
	}
	appointment("treatment planning", told+2, c.Team)
	decided := told + min(2, treated-told)
	if decided > ago {
		return c
	}
	t := Treatment{Decided: on(decided), Modality: []string{"01", "01", "02", "05"}[r.IntN(4)], Setting: referralv1.TreatmentSetting_TREATMENT_SETTING_OUTPATIENT}
	defer func() { c.Treatment = []Treatment{t} }()
	if treated > ago {
		return c
	}
	t.Started = on(treated)
	if treated+length > ago {
		return c
	}
	t.Ended, t.Last = on(treated+length), true
	appointment("end of treatment", treated+length, c.Team)
	c.Handover = handover
	if c.Handover == Accepted && r.IntN(2) > 0 && treated+length+8 < ago {
		c.Contacted = on(treated + length + 8)
	}
	return c
}

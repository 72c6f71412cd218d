package cohort

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	referralv1 "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/nhs"
)

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

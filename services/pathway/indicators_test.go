package pathway

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	pb "waymark/proto/waymark/pathway/v1"
)

// counting is the moment at which the tests count: 1 September 2026, noon in London.
var counting = time.Date(2026, 9, 1, 11, 0, 0, 0, time.UTC)

// views are pathways as the read model holds them, small enough to count by hand.
func views(t *testing.T) []*pb.Pathway {
	t.Helper()
	texts := []string{
		// A breast cancer seen at RJ1 and treated at RYR in 63 days, in good order afterwards.
		`pathway_id: "a" person_id: "p1" route: ROUTE_USC
		start { received_on: "2026-01-05" priority: "3" referral_type: "01" source: "03" responsible_team { organisation: "RJ1" } }
		first_seen { on: "2026-01-12" organisation: "RJ1" }
		diagnosis { told { on: "2026-01-30" organisation: "RJ1" } icd10: "C50.4" tumour_group: "01" }
		transfer { on: "2026-02-16" investigating_provider: "RJ1" treating_provider: "RYR" }
		treatments {
			decision { on: "2026-02-20" organisation: "RYR" }
			started { on: "2026-03-09" event_type: "01" modality: "01" organisation: "RYR" }
			ended { on: "2026-05-29" last_period: true organisation: "RYR" }
		}
		clocks { clock: "fds" status: CLOCK_STATUS_STOPPED start_on: "2026-01-05" end_on: "2026-01-30" days: 25 counted: true limit: 28 }
		clocks { clock: "d31" status: CLOCK_STATUS_STOPPED start_on: "2026-02-20" end_on: "2026-03-09" days: 17 counted: true limit: 31 }
		clocks { clock: "d62" status: CLOCK_STATUS_STOPPED start_on: "2026-01-05" end_on: "2026-03-09" days: 63 counted: true breach: true limit: 62 }
		plan { agreed_on: "2026-02-20" concerns { high_emotional_score: true high_score: true raised_on: "2026-02-05" escalated_due { seconds: 1770822000 } discussed_on: "2026-02-10" resolved_on: "2026-05-06" }
			concerns { high_score: true raised_on: "2026-02-05" discussed_on: "2026-02-12" decision: CONCERN_DECISION_NO_ACTION_NEEDED decided_on: "2026-02-12" }
			concerns { raised_on: "2026-02-05" decision: CONCERN_DECISION_WATCH decided_on: "2026-02-12" }
			concerns { raised_on: "2026-08-20" } }
		assessments { state: "closed" offered_on: "2026-02-01" submitted_on: "2026-02-05" plan_offered_status: "03" concerns: 3 }
		summaries { state: "issued" period { ended_on: "2026-05-29" } first_issued_on: "2026-07-01" version: 1
			deliveries { recipient: RECIPIENT_KIND_PATIENT state: "acknowledged" } deliveries { recipient: RECIPIENT_KIND_GP state: "failed" } }
		surveillance { state: "started"
			items { due: "2026-07-01" grace_days: 14 state: "told" performed_on: "2026-07-15" }
			items { due: "2026-07-10" grace_days: 14 state: "due" } items { due: "2026-08-31" grace_days: 14 state: "due" } items { due: "2027-07-01" } }
		results { received_on: "2026-07-20" told_on: "2026-07-30" }
		holder { kind: PARTY_KIND_PERSON_IN_ROLE organisation: "RYK" } ledger_opened: true
		custody { holder { kind: PARTY_KIND_TEAM organisation: "RJ1" } since { seconds: 1767600000 } until { seconds: 1781254800 } until_position: 9 }
		custody { holder { kind: PARTY_KIND_PERSON_IN_ROLE organisation: "RYK" } since { seconds: 1781254800 } position: 9 cause: TRANSFER_CAUSE_HANDOVER_ACCEPTED }
		past_handovers { state: HANDOVER_STATE_DECLINED decline_reason: DECLINE_REASON_CAPACITY offered_at { seconds: 1781082000 } ended_at { seconds: 1781089200 } from { organisation: "RYR" } }
		past_handovers { state: HANDOVER_STATE_ACCEPTED offered_at { seconds: 1781168400 } ended_at { seconds: 1781254800 } from { organisation: "RYR" } }
		past_first_contacts { due { seconds: 1779960000 } accepted_at { seconds: 1778760000 } }
		first_contact { due { seconds: 1782491400 } accepted_at { seconds: 1781254800 } made_on: "2026-06-20" }
		referrals { kind: REFERRAL_KIND_CHARITY state: "accepted" sent_at { seconds: 1770000000 } received_at { seconds: 1770007200 } target_organisation: "8J1" }
		referrals { kind: REFERRAL_KIND_PREHABILITATION state: "sent" sent_at { seconds: 1771500000 } target_organisation: "RJ1" screening_level: SCREENING_LEVEL_TARGETED screened_at { seconds: 1771500000 } }
		services_offers { offer_id: "o" offered_on: "2026-02-02" services: 2 state: "declined" }
		appointments { appointment_id: "x" state: "fulfilled" ended_on: "2026-06-01" booking { site: "RYR01" } }
		appointments { appointment_id: "y" state: "did_not_attend" ended_on: "2026-06-15" booking { site: "RYR01" } }
		appointments { appointment_id: "z" state: "did_not_attend" ended_on: "2026-06-22" booking { site: "RYR01" } }
		visits { visit_id: "v" organisation: "RYR" state: "discharged" discharged_at { seconds: 1781254800 } }
		visits { visit_id: "w" organisation: "RYR" state: "discharged" discharged_at { seconds: 1781254800 } }
		to_be_booked { cause: "outcome_without_next" cause_id: "x" state: "open" }
		to_be_booked { cause: "discharge_follow_up" cause_id: "v" state: "open" }
		to_be_booked { cause: "did_not_attend" cause_id: "y" due: "2026-06-17" state: "booked" closed_on: "2026-06-17" }
		to_be_booked { cause: "did_not_attend" cause_id: "z" due: "2026-06-24" state: "ended" closed_on: "2026-06-25" }`,
		// Cancer ruled out on day 29; closed, its ledger too.
		`pathway_id: "b" person_id: "p2" route: ROUTE_SCREENING
		start { received_on: "2026-03-02" priority: "2" source: "17" responsible_team { organisation: "RJ1" } }
		first_seen { on: "2026-03-10" organisation: "RJ1" }
		ruled_out { told { on: "2026-03-31" organisation: "RJ1" } end_reason: "02" }
		closed { on: "2026-03-31" reason: CLOSE_REASON_CANCER_RULED_OUT } ledger_opened: true ledger_closed: CLOSE_REASON_CANCER_RULED_OUT
		clocks { clock: "fds" status: CLOCK_STATUS_STOPPED start_on: "2026-03-02" end_on: "2026-03-31" days: 29 counted: true breach: true limit: 28 }
		clocks { clock: "d62" status: CLOCK_STATUS_DISCONTINUED start_on: "2026-03-02" limit: 62 }
		custody { holder { kind: PARTY_KIND_TEAM organisation: "RJ1" } since { seconds: 1772400000 } until { seconds: 1774990000 } }`,
		// Waits for treatment, held by a pool, a breach ahead and nothing booked; the second tumour of p1 this year.
		`pathway_id: "c" person_id: "p3" person { merged_into: "p1" } route: ROUTE_USC
		start { received_on: "2026-07-06" priority: "3" referral_type: "10" source: "03" responsible_team { organisation: "RJ1" } }
		diagnosis { told { on: "2026-07-20" organisation: "RJ1" } icd10: "C61" tumour_group: "10" }
		clocks { clock: "fds" status: CLOCK_STATUS_STOPPED start_on: "2026-07-06" end_on: "2026-07-20" days: 14 counted: true limit: 28 }
		clocks { clock: "d62" status: CLOCK_STATUS_RUNNING start_on: "2026-07-06" limit: 62 breach_after: "2026-09-06" }
		holder { kind: PARTY_KIND_FALLBACK_POOL organisation: "RYK" } ledger_opened: true
		custody { holder { kind: PARTY_KIND_FALLBACK_POOL organisation: "RYK" } since { seconds: 1787655600 } }
		open_handover { state: HANDOVER_STATE_OFFERED escalation_level: 1 offered_at { seconds: 1788255600 } from { organisation: "RYK" } }`,
		// Never was.
		`pathway_id: "d" person_id: "p4" start { received_on: "2026-03-02" } closed { on: "2026-03-03" reason: CLOSE_REASON_ENTERED_IN_ERROR }
		clocks { clock: "fds" status: CLOCK_STATUS_STOPPED start_on: "2026-03-02" end_on: "2026-03-31" days: 29 counted: true breach: true limit: 28 }`,
	}
	var all []*pb.Pathway
	for i, text := range texts {
		v := &pb.Pathway{}
		if err := prototext.Unmarshal([]byte(text), v); err != nil {
			t.Fatalf("pathway %d: %v", i, err)
		}
		all = append(all, v)
	}
	return all
}

// want is what each served indicator counts over the views, without months:
// "split numerator/denominator-excluded", for a median "split largest median of a month/of-excluded".
var want = map[string]string{
	"M01":  "2/3-0",
	"M02":  "01 2/2-0; 02 0/1-0",
	"M03":  "1/1-0",
	"M04":  "0/1-0", // 42 days to the transfer, 21 after it: scenario 5, the breach is RJ1's
	"M05":  "0/1-0",
	"M06":  "1/1-0",
	"M07":  "d31 17/1-0; d62 63/1-0; fds 29/3-0",
	"M08":  "d62 032-062 1/1-0",
	"M09":  "1/2-0",
	"M10":  "1/1-1", // the prostate is p1's second of the year
	"M11":  "1/1-1",
	"M12":  "1/1-0",
	"M13":  "agreed 1/1-0; offered 1/1-0",
	"M14":  "2/3-1", // resolved on its last day; needed nothing; watched; too new
	"M15":  "emotional 1/1-0; other 0/1-0",
	"M16":  "emotional.worry 2/2-0; physical.fatigue 1/1-0",
	"M17":  "28 days 0/1-0; 42 days 1/1-0",
	"M18":  "gp 0/1-0; patient 1/1-0",
	"M19":  "1/1-0",
	"M20":  "1/2-0",
	"M20b": "13/2-0", // 2 h and 24 h
	"M21":  "capacity 1/1-0; offered_again 1/1-0",
	"M22":  "level 0 0/2-0; level 1 0/0-1",
	"M23":  "1/2-0", // no contact after the first acceptance
	"M24":  "1/2-0",
	"M24b": "7/1-0",
	"M25":  "0/3-0",
	"M26":  "caseload 5/5-0; leave without cover 0/1-0; on leave 1/2-0; over capacity 1/2-0",
	"M27":  "1/2-1",
	"M28":  "over 30 days 1/3-0; overdue 1/3-0",
	"M29":  "10/1-0",
	"M30":  "attended 1/1-0; discharged 1/2-0",
	"M31":  "2/3-0",
	"M31b": "1/2-0",
	"M32":  "1/2-0",
	"M32b": "2/1-1",
	"M33":  "accepted 0/2-0; offered 1/2-0; referred 1/2-0",
	"M34":  "referred 1/1-0; screened 1/1-0; specialist 0/1-0; targeted 1/1-0; universal 0/1-0",
}

func count(q *pb.GetIndicatorsRequest, all []*pb.Pathway) []*pb.IndicatorRow {
	t := newTally(q, counting)
	for _, v := range all {
		c := counts{pathway: v}
		if v.PathwayId == "a" {
			c.codes = []*pb.ConcernCodes_Code{{Code: "emotional.worry", RaisedOn: "2026-02-05"}, {Code: "physical.fatigue", RaisedOn: "2026-02-05"}, {Code: "emotional.worry", RaisedOn: "2026-08-20"}}
		}
		t.add(c)
	}
	for _, l := range []*pb.Lead{
		{Organisation: "RYK", Active: true, Capacity: 4, Places: []string{"a", "b", "c"}},
		{Organisation: "RYK", Active: true, Capacity: 1, Places: []string{"d", "e"}, OnLeave: []string{"x"}},
		{Organisation: "RYK", Capacity: 40, Places: []string{"f"}}, // no longer active
	} {
		t.add(counts{lead: l})
	}
	return t.rows()
}

// perIndicator adds the rows of each indicator and split up over the months.
func perIndicator(rows []*pb.IndicatorRow) map[string]string {
	type total struct{ value, numerator, denominator, excluded float64 }
	sums := map[string]map[string]*total{}
	for _, r := range rows {
		if sums[r.Id] == nil {
			sums[r.Id] = map[string]*total{}
		}
		if sums[r.Id][r.Split] == nil {
			sums[r.Id][r.Split] = &total{}
		}
		s := sums[r.Id][r.Split]
		s.value = max(s.value, r.Value.GetNumber())
		s.numerator += r.Numerator.GetNumber()
		s.denominator += r.Denominator.GetNumber()
		s.excluded += r.Excluded.GetNumber()
	}
	out := map[string]string{}
	for id, splits := range sums {
		var texts []string
		for split, s := range splits {
			n := s.numerator
			for _, d := range catalogue {
				if d.Id == id && median(d.Unit) {
					n = s.value
				}
			}
			texts = append(texts, strings.TrimSpace(fmt.Sprintf("%s %v/%v-%v", split, n, s.denominator, s.excluded)))
		}
		slices.Sort(texts)
		out[id] = strings.Join(texts, "; ")
	}
	return out
}

func TestIndicators(t *testing.T) {
	t.Parallel()
	got := perIndicator(count(&pb.GetIndicatorsRequest{}, views(t)))
	served := 0
	for _, d := range catalogue {
		if d.count == nil {
			continue
		}
		served++
		if got[d.Id] != want[d.Id] {
			t.Errorf("%s %s: %q, want %q", d.Id, d.Name, got[d.Id], want[d.Id])
		}
	}
	t.Logf("%d indicators served", served)
}

// TestIndicatorMonthsAndDimensions pins where cases fall: by the civil month of
// their event, with the trust that the definition names.
func TestIndicatorMonthsAndDimensions(t *testing.T) {
	t.Parallel()
	by := []pb.IndicatorDimension{pb.IndicatorDimension_INDICATOR_DIMENSION_PROVIDER, pb.IndicatorDimension_INDICATOR_DIMENSION_TUMOUR_GROUP, pb.IndicatorDimension_INDICATOR_DIMENSION_ROUTE}
	var got []string
	for _, r := range count(&pb.GetIndicatorsRequest{Ids: []string{"M01", "M04"}, By: by}, views(t)) {
		got = append(got, fmt.Sprint(r.Id, " ", r.Month, " ", r.Provider, " ", r.TumourGroup, " ", r.Route, " ", r.Numerator.Number, "/", r.Denominator.Number))
	}
	want := []string{
		"M01 2026-01 RJ1 breast usc 1/1",
		"M01 2026-03 RJ1 unknown screening 0/1",
		"M01 2026-07 RJ1 prostate usc 1/1",
		"M04 2026-03 RJ1 breast usc 0/1",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if rows := count(&pb.GetIndicatorsRequest{Ids: []string{"M01"}, FromMonth: "2026-02", ToMonth: "2026-06", Provider: "RJ1"}, views(t)); len(rows) != 1 || rows[0].Month != "2026-03" || rows[0].Provider != "" {
		t.Errorf("rows from February to June: %v", rows)
	}
	if rows := count(&pb.GetIndicatorsRequest{Ids: []string{"M01"}, TumourGroup: "lung"}, views(t)); len(rows) != 0 {
		t.Errorf("rows of lung: %v", rows)
	}
}

// TestIndicatorOrder: the order in which pathways come makes no difference, which
// of a patient's tumours is the first of the year included.
func TestIndicatorOrder(t *testing.T) {
	t.Parallel()
	all := views(t)
	before := count(&pb.GetIndicatorsRequest{}, all)
	for seed := range uint64(20) {
		shuffled := slices.Clone(all)
		rand.New(rand.NewPCG(seed, 1)).Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		after := count(&pb.GetIndicatorsRequest{}, shuffled)
		if !slices.EqualFunc(before, after, func(a, b *pb.IndicatorRow) bool { return proto.Equal(a, b) }) {
			t.Fatalf("seed %d: other rows", seed)
		}
	}
}

// TestExportedIndicators: every row of three pathways is of small numbers, and
// nothing of them is told.
func TestExportedIndicators(t *testing.T) {
	t.Parallel()
	q := &pb.GetIndicatorsRequest{Export: true}
	rows := count(q, views(t))
	x, err := openExports("", nil, discard)
	if err != nil {
		t.Fatal(err)
	}
	defer x.close()
	if err := x.release(q, rows); err != nil {
		t.Fatal(err)
	}
	if len(rows) == 0 {
		t.Fatal("no rows")
	}
	for _, r := range rows {
		for _, f := range []*pb.Figure{r.Value, r.P90, r.Longest, r.Numerator, r.Denominator, r.Excluded} {
			if f.GetNumber() != 0 {
				t.Errorf("%s tells %v", r.Id, f.Number)
			}
		}
	}
}

// TestMiddle pins the median and the 90th percentile.
func TestMiddle(t *testing.T) {
	t.Parallel()
	if m := middle([]float64{1, 2, 9}); m != 2 {
		t.Errorf("median of three: %v", m)
	}
	if m := middle([]float64{1, 2, 4, 9}); m != 3 {
		t.Errorf("median of four: %v", m)
	}
	s := sum{}
	for i := range 10 {
		s.values = append(s.values, float64(10-i))
	}
	if r := s.row(indicator{&pb.IndicatorDefinition{Unit: inDays}, nil}); r.P90.Number != 9 || r.Longest.Number != 10 {
		t.Errorf("of 1 to 10: %v", r)
	}
}

// TestCatalogue: M01 to M34 stand in order, and each says what it counts or why
// it is not served.
func TestCatalogue(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for i, d := range catalogue {
		if seen[d.Id] {
			t.Errorf("%s stands twice", d.Id)
		}
		seen[d.Id] = true
		if i > 0 && d.Id < catalogue[i-1].Id {
			t.Errorf("%s is out of order", d.Id)
		}
		if (d.count == nil) != (d.NotServed != "") || d.Name == "" || d.Unit == 0 {
			t.Errorf("%s: served or not, and why?", d.Id)
		}
		if d.count == nil {
			continue
		}
		for name, text := range map[string]string{"denominator": d.Denominator, "excluded": d.Excluded, "month_of": d.MonthOf, "provider": d.Provider, "source": d.Source} {
			if text == "" && !(name == "denominator" && d.Unit == counted) {
				t.Errorf("%s has no %s", d.Id, name)
			}
		}
		if d.Numerator == "" && !median(d.Unit) {
			t.Errorf("%s has no numerator", d.Id)
		}
		if _, tested := want[d.Id]; !tested {
			t.Errorf("%s is not tested", d.Id)
		}
	}
	for i := 1; i <= 34; i++ {
		if id := fmt.Sprintf("M%02d", i); !seen[id] {
			t.Errorf("%s is missing", id)
		}
	}
}

// TestReadmeListsIndicators: the README says of each indicator whether it is
// served, as the catalogue does.
func TestReadmeListsIndicators(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range catalogue {
		served := "yes"
		if d.count == nil {
			served = "no: " + d.NotServed
		}
		if line := fmt.Sprintf("| %s | %s | %s |", d.Id, d.Name, served); !strings.Contains(string(text), line+"\n") {
			t.Errorf("README.md lacks the line\n%s", line)
		}
	}
}

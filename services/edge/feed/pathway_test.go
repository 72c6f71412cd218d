package feed

import (
	"fmt"
	"strings"
	"testing"
	"time"

	appointmentv1 "waymark/proto/waymark/appointment/v1"
	pb "waymark/proto/waymark/edge/v1"
	planv1 "waymark/proto/waymark/plan/v1"
	"waymark/services/edge"
	"waymark/services/kit/estest"
)

// about is a message of any type about the patient of adt, sent at a minute of
// 1 June 2026, 12 o'clock.
func about(kind, control string, minute int, rest string) string {
	code, trigger, _ := strings.Cut(kind, "^")
	text := adt(trigger, control, "")
	text = strings.Replace(text, "ADT^"+trigger+"^ADT_A05", code+"^"+trigger, 1)
	return strings.ReplaceAll(text, "20260601120000", fmt.Sprintf("202606011200%02d", minute)) + rest
}

// pathway starts one for the patient and returns its id.
func (h *house) pathway(t testing.TB, control string) string {
	t.Helper()
	r := h.want(t, ref("I12", control, "RF1|P|3|01|||"+control+"^RJ1|20260601"), "AA", "")
	for _, e := range r.Message.Effects {
		if e.Command == "referral.StartPathway" {
			return e.SubjectId
		}
	}
	t.Fatal("no pathway was started")
	return ""
}

func (h *house) planned(t testing.TB, pathway string) *appointmentv1.ListAppointmentsResponse {
	t.Helper()
	r, err := h.appointments.ListAppointments(t.Context(), &appointmentv1.ListAppointmentsRequest{PathwayId: pathway})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (h *house) record(t testing.TB, pathway string) *planv1.Record {
	t.Helper()
	r, err := planv1.NewPlanServiceClient(h.conn).GetPlan(t.Context(), &planv1.GetPlanRequest{PathwayId: pathway})
	if err != nil {
		t.Fatal(err)
	}
	return r.Record
}

func effects(r *pb.TakeMessageReply) string {
	var all []string
	for _, e := range r.Message.Effects {
		all = append(all, e.Command[strings.Index(e.Command, ".")+1:])
	}
	return strings.Join(all, " ")
}

const (
	visit = "PV1|1|I|W1||||||||||||||||V1\r"
	siu   = "SCH|P1|F1|||||Review^Clinic review|TEL|30|MIN|^^^%s^%s||||||||||||||Booked\rAIL|1||Room 3^^^RJ101\rAIP|1||X|Consultant\r"
)

func sch(filler, start, end, reason string) string {
	s := fmt.Sprintf(siu, start, end)
	return strings.Replace(strings.Replace(s, "|F1|", "|"+filler+"|", 1), "|||||Review", "||||"+reason+"|Review", 1)
}

// A booking's life as a trust's system tells it.
func TestSchedule(t *testing.T) {
	t.Parallel()
	h := open(t, estest.NewLog(), edge.ListenOptions{})
	h.want(t, adt("A28", "1", ""), "AA", "")
	id := h.pathway(t, "REF1")
	r := h.want(t, about("SIU^S12", "10", 10, sch("F1", "202606100900", "202606100930", "")), "AA", "")
	if effects(r) != "BookAppointment" {
		t.Errorf("S12: %s", effects(r))
	}
	a := h.planned(t, id).Appointments[0]
	if a.PasSystem != "RJ1" || a.PasId != "F1" || a.Purpose != "Clinic review" || a.Booking.Site != "RJ101" || a.Booking.Room != "Room 3" ||
		a.Booking.Medium != appointmentv1.Medium_MEDIUM_TELEPHONE || a.Booking.Start.AsTime().Format("15:04") != "08:00" {
		t.Errorf("booked: %v", a)
	}
	// Moved, told again, told late, amended.
	if r := h.want(t, about("SIU^S13", "11", 30, sch("F1", "202606110900", "202606110930", "PATIENT^asked")), "AA", ""); effects(r) != "RescheduleAppointment" {
		t.Errorf("S13: %s", effects(r))
	}
	if r := h.want(t, about("SIU^S14", "12", 31, sch("F1", "202606110900", "202606110930", "")), "AA", ""); effects(r) != "" {
		t.Errorf("S14 without news: %s", effects(r))
	}
	h.want(t, about("SIU^S13", "13", 20, sch("F1", "202606120900", "202606120930", "")), "AA", "edge.outdated")
	if r := h.want(t, about("SIU^S14", "14", 32, strings.Replace(sch("F1", "202606110900", "202606110930", ""), "Room 3", "Room 4", 1)), "AA", ""); effects(r) != "AmendAppointment" {
		t.Errorf("S14: %s", effects(r))
	}
	if a = h.planned(t, id).Appointments[0]; a.Booking.Start.AsTime().Format("02 15:04") != "11 08:00" || len(a.Earlier) != 1 || a.Booking.Room != "Room 4" {
		t.Errorf("moved: %v", a)
	}
	// Another one at the same time is recorded, and said.
	h.want(t, about("SIU^S12", "15", 33, sch("F2", "202606110915", "202606111000", "")), "AA", "appointment.overlap")
	if b := h.planned(t, id).Appointments[1]; b.OverlapOverrideReason == "" {
		t.Errorf("an overlap was not recorded as one: %v", b)
	}
	// Cancelled by whom, twice.
	h.want(t, about("SIU^S15", "16", 34, sch("F1", "202606110900", "202606110930", "X^Cancelled by patient")), "AA", "")
	h.want(t, about("SIU^S15", "17", 35, sch("F1", "202606110900", "202606110930", "4")), "AA", "edge.appointment.over")
	h.want(t, about("SIU^S16", "18", 36, sch("F2", "202606110915", "202606111000", "")), "AA", "")
	h.want(t, about("SIU^S12", "19", 37, sch("F1", "202606110900", "202606110930", "")), "AA", "appointment.state")
	all := h.planned(t, id).Appointments
	if all[0].AttendanceCode != "2" || all[1].AttendanceCode != "4" {
		t.Errorf("cancelled: %v", all)
	}
	// Missed: the clock is on 15 June.
	h.want(t, about("SIU^S12", "20", 38, sch("F3", "202606120900", "202606120930", "")), "AA", "")
	h.want(t, about("SIU^S26", "21", 39, sch("F3", "202606120900", "202606120930", "")), "AA", "")
	h.want(t, about("SIU^S12", "22", 40, sch("F4", "202606200900", "202606200930", "")), "AA", "")
	h.want(t, about("SIU^S26", "23", 41, sch("F4", "202606200900", "202606200930", "")), "AE", "appointment.not_begun")
	if h.count(t, "ClockAdjustmentProposed") != 1 {
		t.Error("a missed first appointment proposed no adjustment")
	}
	h.want(t, about("SIU^S17", "24", 42, sch("F4", "202606200900", "202606200930", "")), "AA", "")
	h.want(t, about("SIU^S15", "25", 43, sch("F9", "202606200900", "202606200930", "")), "AA", "edge.appointment.unknown")
	h.want(t, about("SIU^S12", "26", 44, sch("F5", "202603290130", "202603290145", "")), "AE", "appointment.time.missing") // the clocks went forward
	h.want(t, about("SIU^S12", "27", 45, strings.Replace(sch("", "202606200900", "202606200930", ""), "|P1|", "||", 1)), "AE", "edge.field.required")
	// A series is stopped from one of its bookings on.
	for i, at := range []string{"2026062209", "2026062309", "2026062409"} {
		one := strings.Replace(sch(fmt.Sprint("G", i), at+"00", at+"30", ""), fmt.Sprint("|G", i, "|||"), fmt.Sprint("|G", i, "||GRP|"), 1)
		h.want(t, about("SIU^S12", fmt.Sprint("5", i), 50+i, one), "AA", "")
	}
	if r := h.want(t, about("SIU^S16", "60", 54, strings.Replace(sch("G1", "202606230900", "202606230930", ""), "|G1|||", "|G1||GRP|", 1)), "AA", ""); effects(r) != "StopSeries" {
		t.Errorf("S16: %s", effects(r))
	}
	for _, a := range h.planned(t, id).Appointments {
		if stands := a.Status == appointmentv1.AppointmentStatus_APPOINTMENT_STATUS_BOOKED; a.SeriesId != "" && stands != (a.PasId == "G0") {
			t.Errorf("after the series was stopped: %v", a)
		}
	}
	h.want(t, about("SIU^S12", "28", 46, strings.Replace(sch("F6", "2026062109", "", ""), "|30|MIN|", "|||", 1)), "AE", "edge.field.invalid")
	h.want(t, about("SIU^S13", "29", 47, sch("F6", "202606210900", "", "")), "AA", "") // never booked here; its end by its duration
	if last := h.planned(t, id).Appointments; last[len(last)-1].Booking.End.AsTime().Format("15:04") != "08:30" {
		t.Errorf("an end by duration: %v", last[len(last)-1])
	}
	estest.Audit(t, h.log)
}

// A booking of a patient who is on no pathway waits for one, and for nothing else.
func TestWaitsForPathway(t *testing.T) {
	t.Parallel()
	log := estest.NewLog()
	h := open(t, log, edge.ListenOptions{})
	booking := about("SIU^S12", "10", 10, sch("F1", "202606100900", "202606100930", ""))
	first := h.want(t, booking, "AA", "edge.patient.unknown").Message.MessageId
	h.want(t, about("SIU^S13", "11", 11, sch("F1", "202606110900", "202606110930", "")), "AA", "edge.patient.unknown")
	h.want(t, adt("A28", "1", ""), "AA", "")
	h.want(t, about("ADT^A01", "12", 12, visit), "AA", "edge.pathway.none")
	if h.count(t, "PathwayStarted") != 0 || h.count(t, "AppointmentBooked") != 0 {
		t.Fatal("a booking or a visit made a pathway")
	}
	id := h.pathway(t, "REF1")
	h.settled(t, 3)
	a := h.planned(t, id)
	if len(a.Appointments) != 1 || len(a.Appointments[0].Earlier) != 1 || len(a.Visits) != 1 {
		t.Errorf("after the pathway started: %v", a)
	}
	if r := h.want(t, booking, "AA", "edge.patient.unknown"); !r.Duplicate || r.Message.State != pb.MessageState_MESSAGE_STATE_REDRIVEN || r.Message.MessageId != first {
		t.Errorf("its repeat: %v", r.Message)
	}
	// After a restart nothing is released again.
	open(t, log, edge.ListenOptions{}).settled(t, 3)
	if n := h.count(t, "MessageRedriven"); n != 3 {
		t.Errorf("%d messages were redriven, want 3", n)
	}
}

// settled waits until so many messages were redriven and came to an end.
func (h *house) settled(t testing.TB, want int) {
	t.Helper()
	late := time.After(20 * time.Second)
	for {
		r, err := h.edge.ListMessages(t.Context(), &pb.ListMessagesRequest{PageSize: 500})
		if err != nil {
			t.Fatal(err)
		}
		ended := 0
		for _, m := range r.Messages {
			if m.RedriveOf != "" && m.State != pb.MessageState_MESSAGE_STATE_RECEIVED {
				ended++
			}
		}
		if ended >= want {
			return
		}
		select {
		case <-late:
			t.Fatalf("%d were redriven, want %d: %v", ended, want, r.Messages)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Several pathways: the message must name one.
func TestSeveralPathways(t *testing.T) {
	t.Parallel()
	h := open(t, estest.NewLog(), edge.ListenOptions{})
	h.pathway(t, "REF1")
	second := h.pathway(t, "REF2")
	booking := about("SIU^S12", "10", 10, sch("F1", "202606100900", "202606100930", ""))
	h.want(t, booking, "AA", "edge.pathway.several")
	named := strings.Replace(strings.Replace(booking, "|10|P|", "|11|P|", 1), "||01130000000", "||01130000000|||||"+second, 1)
	h.want(t, named, "AA", "")
	if n := len(h.planned(t, second).Appointments); n != 1 {
		t.Errorf("%d appointments on the pathway that was named", n)
	}
	h.want(t, about("SIU^S15", "12", 12, sch("F1", "202606100900", "202606100930", "")), "AA", "") // the booking says which
	h.want(t, strings.Replace(booking, "|10|P|", "|13|P|", 1)+"PID|1||9990000026^^^NHS||OTHER^JO\r", "AA", "edge.patients.several")
}

// Visits of the hospital's own system.
func TestVisits(t *testing.T) {
	t.Parallel()
	h := open(t, estest.NewLog(), edge.ListenOptions{})
	id := h.pathway(t, "REF1")
	pv1 := func(number, began, ended, method string) string {
		f := make([]string, 51)
		f[0], f[1], f[2], f[4], f[19], f[44], f[45], f[36] = "PV1", "1", "I", "11", number, began, ended, method
		return strings.Join(f, "|") + "\r"
	}
	visits := func(number string) *appointmentv1.Visit {
		t.Helper()
		for _, v := range h.planned(t, id).Visits {
			if v.VisitId == "RJ1/"+number {
				return v
			}
		}
		t.Fatalf("no visit %s", number)
		return nil
	}
	h.want(t, about("ADT^A05", "1", 1, pv1("V1", "202606050800", "", "")), "AA", "")
	h.want(t, about("ADT^A01", "2", 2, pv1("V1", "202606050815", "", "")), "AA", "")
	h.want(t, about("ADT^A02", "3", 3, pv1("V1", "202606050815", "", "")), "AA", "edge.nothing_to_record")
	h.want(t, about("ADT^A08", "4", 20, pv1("V1", "202606050900", "", "")), "AA", "")
	h.want(t, about("ADT^A08", "5", 10, pv1("V1", "202606050700", "", "")), "AA", "edge.outdated")
	if v := visits("V1"); v.StartedAt.AsTime().Format("15:04") != "08:00" || v.AdmissionMethod != "11" || v.State != appointmentv1.VisitState_VISIT_STATE_ADMITTED {
		t.Errorf("admitted: %v", v)
	}
	h.want(t, about("ADT^A03", "6", 30, pv1("V1", "202606050900", "202606071100", "1")), "AA", "")
	h.want(t, about("ADT^A13", "7", 31, pv1("V1", "202606050900", "", "")), "AA", "")
	h.want(t, about("ADT^A03", "8", 25, pv1("V1", "202606050900", "202606061100", "1")), "AA", "edge.outdated")
	if v := visits("V1"); v.State != appointmentv1.VisitState_VISIT_STATE_ADMITTED || v.DischargedAt != nil {
		t.Errorf("after the discharge was cancelled: %v", v)
	}
	h.want(t, about("ADT^A11", "9", 32, pv1("V1", "", "", "")), "AA", "")
	h.want(t, about("ADT^A11", "10", 33, pv1("V1", "", "", "")), "AA", "appointment.visit.state")
	h.want(t, about("ADT^A13", "11", 34, pv1("V9", "", "", "")), "AA", "edge.visit.unknown")
	h.want(t, about("ADT^A03", "12", 35, pv1("V8", "", "202606061100", "1")), "AA", "edge.visit.unknown")
	h.want(t, about("ADT^A04", "13", 36, strings.Replace(pv1("V2", "202606080900", "", ""), "|I|", "|O|", 1)), "AA", "")
	h.want(t, about("ADT^A01", "14", 37, pv1("", "202606080900", "", "")), "AA", "edge.visit.unidentified")
	// Only the discharge came: both are recorded. It ends no treatment; a death is noted.
	r := h.want(t, about("ADT^A03", "15", 38, pv1("V3", "202606080900", "202606091000", "4")), "AA", "")
	if effects(r) != "NoteDeath RecordAdmission RecordDischarge" || h.count(t, "DeathReportedInformally") != 1 || h.count(t, "TreatmentPeriodEnded") != 0 {
		t.Errorf("died: %s", effects(r))
	}
	h.want(t, about("ADT^A08", "16", 39, ""), "AA", "")
	h.want(t, about("ADT^A08", "17", 40, pv1("V7", "202606080900", "", "")), "AA", "edge.visit.unknown")
	estest.Audit(t, h.log)
}

// Two records of one patient are linked and parted.
func TestLink(t *testing.T) {
	t.Parallel()
	h := open(t, estest.NewLog(), edge.ListenOptions{})
	h.want(t, adt("A28", "1", ""), "AA", "")
	other := "PID|2||9990000026^^^NHS||OTHER^JO||19700101\r"
	h.want(t, about("ADT^A24", "2", 2, other), "AA", "edge.person.unknown")
	h.want(t, strings.NewReplacer("9990000018^^^NHS~H1", "9990000026^^^NHS~H2", "TESTCASE", "OTHER", "19610504", "19700101").Replace(adt("A28", "3", "")), "AA", "")
	h.want(t, about("ADT^A24", "4", 4, other), "AA", "")
	h.want(t, about("ADT^A37", "5", 5, other), "AA", "")
	if h.count(t, "PersonsLinked") != 2 || h.count(t, "PersonsUnlinked") != 2 {
		t.Error("the two were not linked and parted, in both records")
	}
}

// Results reach the plan, whatever it waits for.
func TestResults(t *testing.T) {
	t.Parallel()
	h := open(t, estest.NewLog(), edge.ListenOptions{})
	id := h.pathway(t, "REF1")
	oru := func(control string, minute int, filler, code, status string, obx ...string) string {
		s := fmt.Sprintf("OBR|1||%s|%s|||202606021000||||||||||||||||||%s\r", filler, code, status)
		for i, x := range obx {
			s += fmt.Sprintf("OBX|%d|%s\r", i+1, x)
		}
		return about("ORU^R01", control, minute, s)
	}
	high, normal := "NM|2857-1^PSA^LN||9.8|ug/L|0-4|H|||F", "NM|2857-1^PSA^LN||1.1|ug/L|0-4|N|||F"
	h.want(t, oru("1", 1, "L1", "2857-1^PSA^LN", "P", strings.Replace(high, "|F", "|P", 1)), "AA", "")
	h.want(t, oru("2", 2, "L1", "2857-1^PSA^LN", "F", high), "AA", "")
	if r := h.record(t, id).Results; len(r) != 1 || r[0].Test != "psa" || !r[0].OutOfRange || r[0].Status != "F" || !strings.Contains(r[0].Value, "9.8") {
		t.Errorf("final: %v", r)
	}
	h.want(t, oru("3", 3, "L1", "2857-1^PSA^LN", "F", high), "AA", "edge.result.known")
	h.want(t, oru("4", 4, "L1", "2857-1^PSA^LN", "F", normal), "AA", "edge.result.final")
	h.want(t, oru("5", 5, "L1", "2857-1^PSA^LN", "F", strings.Replace(normal, "||F", "||C", 1)), "AA", "")
	if r := h.record(t, id).Results; len(r) != 1 || r[0].OutOfRange || r[0].Status != "C" || r[0].State != planv1.ResultState_RESULT_STATE_RECEIVED {
		t.Errorf("corrected: %v", r)
	}
	h.want(t, oru("6", 2, "L1", "2857-1^PSA^LN", "F", high), "AA", "edge.outdated")
	h.want(t, oru("7", 7, "L1", "2857-1^PSA^LN", "X"), "AA", "")
	h.want(t, oru("8", 8, "L2", "UE^Urea", "", "NM|U^Urea||5|mmol/L||||F"), "AA", "") // OBX-11 alone says final
	h.want(t, oru("9", 9, "L3", "2039-6", "I"), "AA", "edge.result.none")
	h.want(t, oru("10", 10, "L4", "2039-6", "C", high), "AA", "edge.result.corrected_first")
	h.want(t, oru("11", 11, "", "2039-6", "F", high), "AE", "edge.field.required")
	h.want(t, oru("12", 12, "L5", "", "F", high), "AE", "edge.field.required")
	h.want(t, oru("13", 13, "L6", "2039-6", "Q", high), "AE", "edge.field.invalid")
	h.want(t, strings.Replace(oru("14", 14, "L7", "2039-6^CEA", "F", normal), "ORU^R01", "ORU", 1), "AA", "") // no trigger
	r := h.record(t, id).Results
	if len(r) != 4 || r[1].Test != "ue" || r[2].Test != "cea" || r[2].Status != "F" || r[3].Test != "cea" {
		t.Errorf("at the end: %v", r)
	}
	estest.Audit(t, h.log)
}

// Documents are referred to, never copied.
func TestDocuments(t *testing.T) {
	t.Parallel()
	h := open(t, estest.NewLog(), edge.ListenOptions{})
	id := h.pathway(t, "REF1")
	mdm := func(trigger, control string, minute int, number string) string {
		return about("MDM^"+trigger, control, minute, "TXA|1|CL|TX|20260602||||||||"+number+"|||||AU\rOBX|1|TX|||the letter\r")
	}
	first := h.want(t, mdm("T02", "1", 1, "D1"), "AA", "").Message
	d := h.record(t, id).Documents
	if len(d) != 1 || d[0].Document.MessageId != first.MessageId || d[0].Document.Type != "CL" || d[0].Document.Status != "AU" || d[0].Document.ExternalId != "D1" || d[0].Document.On != "2026-06-02" {
		t.Errorf("attached: %v", d)
	}
	h.want(t, mdm("T08", "2", 2, "D1"), "AA", "")
	h.want(t, mdm("T02", "3", 1, "D1"), "AA", "edge.outdated")
	h.want(t, mdm("T11", "4", 4, "D1"), "AA", "")
	h.want(t, mdm("T11", "5", 5, "D2"), "AA", "edge.document.unknown")
	h.want(t, mdm("T08", "6", 6, "D3"), "AA", "")
	h.want(t, mdm("T02", "7", 7, ""), "AE", "edge.field.required")
	if d = h.record(t, id).Documents; len(d) != 2 || d[0].Versions != 2 || !d[0].Withdrawn || d[1].Withdrawn {
		t.Errorf("at the end: %v", d)
	}
	estest.Audit(t, h.log)
}

// Referrals on a pathway: sent, changed, asked after, cancelled.
func TestReferrals(t *testing.T) {
	t.Parallel()
	h := open(t, estest.NewLog(), edge.ListenOptions{})
	h.pathway(t, "REF1")
	rf1 := func(reason string) string { return "RF1|P|R|AHP|||R7|20260602|||" + reason }
	if r := h.want(t, ref("I12", "1", rf1("X^Stiff shoulder")), "AA", ""); effects(r) != "DraftReferral SendReferral" {
		t.Errorf("I12: %s", effects(r))
	}
	h.want(t, ref("I12", "2", rf1("X^Stiff shoulder")), "AA", "edge.referral.known")
	status := func(control, want string) {
		t.Helper()
		r := h.want(t, ref("I15", control, rf1("")), "AA", "")
		if !strings.Contains(string(r.Acknowledgement), "\rRF1|"+want+"|") || !strings.Contains(string(r.Acknowledgement), "|RRI^I15") {
			t.Errorf("asked after: %q, want %s", r.Acknowledgement, want)
		}
	}
	status("3", "P")
	h.want(t, ref("I13", "4", rf1("X^Stiff neck")), "AA", "")
	if h.count(t, "ReferralDrafted") != 2 || h.count(t, "ReferralCancelled") != 1 {
		t.Error("a changed referral did not take the place of the one before")
	}
	status("5", "P")
	h.want(t, ref("I14", "6", rf1("PATIENT")), "AA", "")
	h.want(t, ref("I14", "7", rf1("PATIENT")), "AA", "edge.referral.known")
	status("8", "E")
	h.want(t, ref("I15", "9", "RF1|P|3|01|||R99|20260601"), "AA", "edge.referral.unknown")
	// A patient without a traced NHS number is registered, and to be traced.
	nobody := strings.NewReplacer("9990000018^^^NHS~H1", "H7", "TESTCASE", "UNTRACED").Replace(ref("I12", "20", "RF1|P|3|01|||R20|20260601"))
	h.want(t, nobody, "AA", "")
	if h.count(t, "PathwayStarted") != 2 {
		t.Error("a patient without an NHS number was turned away")
	}
	h.want(t, ref("I12", "21", "RF1|P|3|01|||R20|20260601"), "AA", "edge.referral.other_person")
	estest.Audit(t, h.log)
}

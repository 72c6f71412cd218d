package edge

import (
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	pb "waymark/proto/waymark/edge/v1"
	"waymark/services/kit/mllp"
)

func parse(t testing.TB, raw string) message {
	t.Helper()
	m, err := parseMessage([]byte(raw))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// Separators, line ends, escapes, repetitions and depths, as systems send them.
func TestParse(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, raw, path, want string }{
		{"CR", "MSH|^~\\&|A|B\rPID|1||9990000018^^^NHS", "PID-3.1", "9990000018"},
		{"LF", "MSH|^~\\&|A|B\nPID|1||9990000018^^^NHS\n", "PID-3.4", "NHS"},
		{"CRLF", "MSH|^~\\&|A|B\r\nPID|1||9990000018^^^NHS\r\n", "PID-3", "9990000018"},
		{"field separator", "MSH|^~\\&|A|B", "MSH-1", "|"},
		{"encoding characters", "MSH|^~\\&|A|B", "MSH-2", "^~\\&"},
		{"application", "MSH|^~\\&|A|B", "MSH-3", "A"},
		{"other separators", "MSH$%*?@$A$B\rPID$1$$1%2*3%4@5", "PID-3[2].2.2", "5"},
		{"repetition", "MSH|^~\\&\rPID|||1^^^X~2^^^Y", "PID-3[2].4", "Y"},
		{"no such repetition", "MSH|^~\\&\rPID|||1^^^X", "PID-3[2].4", ""},
		{"subcomponent", "MSH|^~\\&\rPID|||1^^^X&2.16&ISO", "PID-3.4.2", "2.16"},
		{"first of several PIDs", "MSH|^~\\&\rPID|||1\rPID|||2", "PID-3", "1"},
		{"escapes", "MSH|^~\\&\rPID|||||O\\T\\B\\F\\C\\S\\D\\R\\E\\E\\F", "PID-5.1", "O&B|C^D~E\\F"},
		{"hex", "MSH|^~\\&\rPID|||||M\\XFC\\ller", "PID-5.1", "Müller"},
		{"unknown escape stays", "MSH|^~\\&\rPID|||||A\\Zx\\B", "PID-5.1", "A\\Zx\\B"},
		{"open escape stays", "MSH|^~\\&\rPID|||||A\\B", "PID-5.1", "A\\B"},
		{"delete is none", "MSH|^~\\&\rPID|||||\"\"", "PID-5.1", ""},
		{"Z segment", "MSH|^~\\&\rZU1|a|b", "ZU1-2", "b"},
		{"byte order mark", "\xef\xbb\xbfMSH|^~\\&|A", "MSH-3", "A"},
		{"indented", "MSH|^~\\&|A\n   PID|||7", "PID-3", "7"},
		{"Latin-1 declared", "MSH|^~\\&||||||||||||||||8859/1\rPID|||||M\xfcller", "PID-5.1", "Müller"},
		{"UTF-8 declared", "MSH|^~\\&||||||||||||||||UNICODE UTF-8\rPID|||||Müller", "PID-5.1", "Müller"},
		{"nothing declared", "MSH|^~\\&\rPID|||||O\x92Neill", "PID-5.1", "O’Neill"},
		{"short MSH-2", "MSH|^|A\rPID|||1~2", "PID-3[2]", "2"},
	} {
		if got := parse(t, c.raw).get(c.path); got != c.want {
			t.Errorf("%s: %s is %q, want %q", c.name, c.path, got, c.want)
		}
	}
	for name, raw := range map[string]string{
		"empty": "", "white": " \r\n", "no MSH": "PID|1", "cut": "MSH", "two alike": "MSH|^^\\&|", "not UTF-8": "MSH|^~\\&||||||||||||||||UNICODE UTF-8\rPID|||||\xff",
		"unknown set": "MSH|^~\\&||||||||||||||||ISO IR87\rPID|||||\xff",
	} {
		if _, err := parseMessage([]byte(raw)); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"", "MSH|^~\\&|A|B\rPID|1||9990000018^^^NHS~2", "MSH$%*?@$A\rPID$$$1%2@3*4\rZZZ", "\xff\xfeM\x00S\x00H\x00|\x00^\x00", "MSH|^~\\&||||||||||||||||8859/1\rPID|||||\\XFC\\\\.br\\", "FHS|\rBHS|\rMSH|^~\\&\rBTS|1", "BHS|^~\\&#|A\nMSH|^~\\&#|A||||||ADT_A28|7|P|2.7\r\nPID|1\n\rBTS|x|y\nFTS|2", "MSH|^~\\&||||||||||||||||WINDOWS-1252\rPID|||||\x80\x9f", "^~\\&#|A\nMSH|^~\\\x827xV\x19&#|A||||||A\x00\x00\x80\x0028|\xf7"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if e := batchOf(raw); e != nil {
			e.head(time.Time{}, e.differs(3))
			e.tail(3, e.differs(3))
		}
		var text int
		for _, one := range mllp.Split(raw) {
			text += len(one)
			m, err := parseMessage(one)
			if err != nil {
				continue
			}
			for _, s := range m.segments {
				for f := range s.fields {
					for r := range m.count(s, f) {
						m.at(s, f, r+1, 1, 1)
						m.at(s, f, r+1, 4, 2)
					}
				}
			}
			// Whatever it is, it is answered, and its fields are shown.
			v := readV2(one, nil)
			v.header()
			v.patients()
			v.digest()
			for _, outcome := range []proto.Message{&pb.MessageApplied{ReferralStatus: "A"}, &pb.MessageParked{Reason: &pb.Reason{Code: "x"}}, &pb.MessageRefused{Reason: &pb.Reason{Code: "x", Field: "PID-3[2].4", Text: "|^~\\&"}}} {
				ack := v.answer("00000000-0000-0000-0000-000000000000", outcome)
				answers(v.message, "00000000-0000-0000-0000-000000000000", outcome, ack)
				if back, err := parseMessage(ack); err != nil || back.raw("MSA", 2) != m.raw("MSH", 10) {
					t.Fatalf("a message with control id %q is answered with %q: %v", m.raw("MSH", 10), ack, err)
				}
			}
			m.list()
			m.reports()
			m.second()
			// What is written with corrections reads the same.
			again, err := parseMessage(m.bytes())
			if err != nil || len(again.segments) != len(m.segments) {
				t.Fatalf("%q was written as %q: %v", one, m.bytes(), err)
			}
		}
		if text > 3*len(raw) {
			t.Fatalf("%d bytes became %d", len(raw), text)
		}
	})
}

func TestPaths(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"PID-3", "PID-3.4", "PID-3[2].4", "PID-3[2].4.2", "ZU1-12"} {
		p, err := parsePath(s)
		if err != nil || p.String() != s {
			t.Errorf("%s: %s, %v", s, p, err)
		}
	}
	for _, s := range []string{"", "PID", "PID-", "PID-x", "PID-0", "PID-3[", "PID-3[x]", "PID-3.", "PID-3.1.2.3"} {
		if _, err := parsePath(s); err == nil {
			t.Errorf("%q was taken", s)
		}
	}
}

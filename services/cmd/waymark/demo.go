package main

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	devv1 "waymark/proto/waymark/dev/v1"
	referralv1 "waymark/proto/waymark/referral/v1"
	"waymark/services/cohort"
	"waymark/services/kit/fault"
	"waymark/services/kit/nhs"
	"waymark/services/kit/run"
)

// demoScript is what waymark dev --demo seeds.
//
//go:embed demo.txt
var demoScript string

// demoSpace makes the command ids of the demonstration.
var demoSpace = uuid.MustParse("6f6a4c0e-6d0b-5c0e-9d7b-2f1f0a7d3c55")

var (
	demoWord = regexp.MustCompile(`'[^']*'|\S+`)
	demoDay  = regexp.MustCompile(`\{([+-]\d+)\}`)
)

// seedDemo seeds the demonstration into the system at a gRPC address, through
// the same commands that people type. What is there already is left as it is.
func (c *cli) seedDemo(ctx context.Context, address string) error {
	now, err := timeOf(ctx, address)
	if err != nil {
		return err
	}
	n := 0
	for line := range strings.Lines(demoScript) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		n++
		args, err := c.demoLine(ctx, address, now, n, line)
		if err != nil {
			return err
		}
		out, code := c.inner(ctx, args)
		for range 20 {
			// A service reacted between the reading and the writing: read it again.
			if code == exitOK || !strings.Contains(out, "plan.stale") {
				break
			}
			out, code = c.inner(ctx, args)
		}
		switch {
		case code == exitOK:
		case strings.Contains(out, "command.id_reused"), strings.Contains(out, errNoOffer.Error()): // seeded before
		default:
			return fmt.Errorf("the demonstration stopped at %q: %s", line, strings.TrimSpace(out))
		}
	}
	return nil
}

// demoSeed draws the same patients each time.
const demoSeed = 1

// seedCohort sends the journeys of so many drawn patients, and returns how many
// were taken whole. What was sent before changes nothing: the days are those of the
// first time.
func seedCohort(ctx context.Context, address string, patients int, said note) (whole int, err error) {
	conn, err := run.Dial(address, nil, nil)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	to, err := newSender(ctx, conn, 0)
	if err != nil {
		return 0, err
	}
	today := to.today
	drawn := cohort.Demo(patients, demoSeed, today)
	first := drawn.Journeys[0]
	reply, err := referralv1.NewPathwayServiceClient(conn).GetPathway(ctx, &referralv1.GetPathwayRequest{PathwayId: cohort.PathwayID(first, first.Courses[0])})
	if err == nil {
		was, errWas := nhs.ParseDate(reply.Pathway.GetStart().GetReceivedOn())
		is, errIs := nhs.ParseDate(first.Courses[0].Received)
		if errWas != nil || errIs != nil {
			return 0, errors.Join(errWas, errIs)
		}
		drawn = cohort.Demo(patients, demoSeed, today.AddDays(is.DaysUntil(was)))
	} else if !fault.IsAnswer(err) {
		return 0, err
	}
	var done atomic.Int64
	err = eachOf(len(drawn.Journeys), 2, func(i int) error {
		ok, err := to.journey(ctx, drawn.Journeys[i], said)
		if ok {
			done.Add(1)
		}
		return err
	})
	return int(done.Load()), err
}

// demoLine is the nth command line with its dates, its person and its command id.
func (c *cli) demoLine(ctx context.Context, address string, now time.Time, n int, line string) ([]string, error) {
	line = demoDay.ReplaceAllStringFunc(line, func(day string) string {
		days, _ := strconv.Atoi(strings.Trim(day, "{}"))
		return england(now).AddDate(0, 0, days).Format(time.DateOnly)
	})
	args := demoWord.FindAllString(line, -1)
	for i, arg := range args {
		args[i] = strings.Trim(arg, "'")
		if number, ok := strings.CutPrefix(arg, "@"); ok {
			out, code := c.inner(ctx, []string{"person", "find", number, "--field", "person.person_id", "--grpc", address})
			if code != exitOK {
				return nil, fmt.Errorf("the demonstration's person is not found: %s", out)
			}
			args[i] = strings.TrimSpace(out)
		}
	}
	return append(args, "--grpc", address, "--command-id", uuid.NewSHA1(demoSpace, []byte(strconv.Itoa(n))).String()), nil
}

// inner runs a command line in this process and returns what it printed.
func (c *cli) inner(ctx context.Context, args []string) (string, int) {
	var out bytes.Buffer
	code := newCLI(strings.NewReader(""), &out, &out, nil).execute(ctx, append(args, "--quiet"))
	return out.String(), code
}

func timeOf(ctx context.Context, address string) (time.Time, error) {
	conn, err := run.Dial(address, nil, nil)
	if err != nil {
		return time.Time{}, err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	now, err := devv1.NewClockServiceClient(conn).GetClock(ctx, &devv1.GetClockRequest{})
	return now.GetNow().AsTime(), err
}

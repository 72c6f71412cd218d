package cohort

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"

	"waymark/services/kit/nhs"
)

// space makes the ids of everything that is imported.
var space = uuid.MustParse("0d0c4f5e-53a8-5f0e-8a51-6c8c34bd7f5e")

// ID derives an id from what it is of.
func ID(of ...string) string {
	return uuid.NewSHA1(space, []byte(strings.Join(of, "/"))).String()
}

// testNumbers is how many nine-digit beginnings the 999 range has; the first
// thousand are left to examples that people type.
const (
	testNumbers = 1_000_000
	keptNumbers = 1_000
)

// Number is the NHS number, of the 999 range that belongs to nobody, of somebody
// whose source gives none. Another attempt gives another number.
func Number(source, id string, attempt int) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s/%s/%d", source, id, attempt))
	for n := binary.BigEndian.Uint64(sum[:]); ; n++ {
		nine := fmt.Sprintf("999%06d", keptNumbers+n%(testNumbers-keptNumbers))
		for check := range 10 {
			number := fmt.Sprintf("%s%d", nine, check)
			if _, err := nhs.ParseNumber(number); err == nil {
				return number
			}
		} // a tenth of all beginnings have no check digit: the next one
	}
}

// Number numbers journeys so that no two of them share an NHS number: who comes
// later by id goes on to the next attempt. One that is held by somebody of an
// earlier import is found out when it is registered.
func number(journeys []*Journey) {
	taken := map[string]bool{}
	slices.SortFunc(journeys, func(a, b *Journey) int { return strings.Compare(a.ID, b.ID) })
	for _, j := range journeys {
		for taken[Number(j.Source, j.ID, j.Attempt)] {
			j.Attempt++
		}
		taken[Number(j.Source, j.ID, j.Attempt)] = true
	}
}

var base = base32.StdEncoding.WithPadding(base32.NoPadding)

// Code is the code of an organisation whose source knows none, in the form of an
// ODS code. Those that begin with ZZ are not in use.
func Code(source, id string) string {
	sum := sha256.Sum256([]byte(source + "/organisation/" + id))
	return "ZZ" + base.EncodeToString(sum[:5])
}

// user is the SDS user id of somebody made up, in a range that SDS does not give out.
func user(source, id string) string {
	sum := sha256.Sum256([]byte(source + "/user/" + id))
	return fmt.Sprintf("999%09d", binary.BigEndian.Uint64(sum[:])%1_000_000_000)
}

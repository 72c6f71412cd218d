package pathway

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"

	"waymark/services/kit/es"
	"waymark/services/kit/fault"
)

// page is one page of a list. A token holds where the last one ended and a sum
// of what was asked, so that a token of another question is refused.
type page struct {
	size  int
	sum   [8]byte
	after []byte // key of the last row of the page before; nil for the first page
}

const (
	defaultPage = 200
	largestPage = 1000
)

// pageOf reads a page request; what tells the question from others.
func pageOf(size int32, token string, what ...string) (page, error) {
	p := page{size: int(size)}
	if p.size <= 0 {
		p.size = defaultPage
	}
	p.size = min(p.size, largestPage)
	hash := sha256.New()
	for _, w := range what {
		hash.Write(binary.AppendUvarint(nil, uint64(len(w))))
		hash.Write([]byte(w))
	}
	copy(p.sum[:], hash.Sum(nil))
	if token == "" {
		return p, nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(raw) < len(p.sum) || string(raw[:len(p.sum)]) != string(p.sum[:]) {
		return p, fault.Invalid("pathway.page_token", "page_token", "is not of this question: repeat the request that it came from, with nothing else changed")
	}
	p.after = raw[len(p.sum):]
	return p, nil
}

// next is the token of the page after the row with this key.
func (p page) next(key []byte) string {
	return base64.RawURLEncoding.EncodeToString(append(p.sum[:len(p.sum):len(p.sum)], key...))
}

func (p page) nextPosition(at es.Position) string {
	return p.next(binary.BigEndian.AppendUint64(nil, uint64(at)))
}

func (p page) afterPosition() es.Position {
	if len(p.after) != 8 {
		return 0
	}
	return es.Position(binary.BigEndian.Uint64(p.after))
}

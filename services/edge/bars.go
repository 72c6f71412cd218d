package edge

import "context"

// process is a message Bundle.
func (d *document) process(ctx context.Context, w *work, header resource) error {
	in, err := d.read(w)
	if err != nil {
		return err
	}
	return in.run(ctx)
}

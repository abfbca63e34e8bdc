// Use over time: bars drawn by hand, and the same as a table.

const PERIODS = [
  { name: '24 hours', bucket: 'hour', length: HOUR, count: 24 },
  { name: '30 days', bucket: 'day', length: DAY, count: 30 },
];

/** The beginning of the first bucket, in milliseconds. Hours and days are those of UTC. */
function periodStart({ length, count }) {
  const size = length * 1_000;
  return (Math.floor(now() / size) - count + 1) * size;
}

/** All buckets of a period, also those without use, which the API leaves out. */
function fillBuckets(period, start, buckets) {
  const known = new Map(buckets.map((bucket) => [Date.parse(bucket.start), bucket]));
  return Array.from({ length: period.count }, (_, index) => {
    const at = start + index * period.length * 1_000;
    const { allowed = 0, denied = 0 } = known.get(at) ?? {};
    return { at, allowed, denied };
  });
}

function useTotals(buckets) {
  const sum = (member) => buckets.reduce((total, bucket) => total + bucket[member], 0);
  return `${number(sum('allowed'))} allowed, ${number(sum('denied'))} refused`;
}

function useTable(period, buckets) {
  const used = buckets.filter(({ allowed, denied }) => allowed + denied > 0).reverse();
  if (!used.length) return none('No use in this period.');
  return h('table', { class: 'numbers' },
    h('caption', { class: 'hidden' }, `Use in the last ${period.name}`),
    h('thead', null, h('tr', null,
      h('th', { scope: 'col' }, period.bucket === 'day' ? 'Day (UTC)' : 'Hour'),
      h('th', { scope: 'col' }, 'Allowed'),
      h('th', { scope: 'col' }, 'Refused'))),
    h('tbody', null, used.map(({ at, allowed, denied }) => h('tr', null,
      h('th', { scope: 'row' }, bucketText(period, at)),
      h('td', null, number(allowed)),
      h('td', null, number(denied))))));
}

/** A chart that fits `width` pixels; `read` is told which bucket is pointed at, or null. */
function useChart(period, buckets, width, read) {
  const height = 230;
  const [left, right, top, bottom] = [44, 4, 8, 24];
  const most = Math.max(...buckets.map(({ allowed, denied }) => allowed + denied), 0);
  const step = niceStep(most / 3);
  const highest = Math.max(Math.ceil(most / step), 1) * step;
  const slot = (width - left - right) / buckets.length;
  const y = (value) => top + (height - top - bottom) * (1 - value / highest);
  const base = y(0);

  const chart = svg('svg', {
    class: 'chart', viewBox: `0 0 ${width} ${height}`, width, height, role: 'img',
    'aria-label': `Use in the last ${period.name}: ${useTotals(buckets)}`,
  });
  for (let value = 0; value <= highest; value += step) {
    chart.append(
      svg('line', { class: value ? 'grid' : 'axis', x1: left, x2: width - right, y1: y(value), y2: y(value) }),
      svg('text', { class: 'tick', x: left - 8, y: y(value) + 4, 'text-anchor': 'end' }, short(value)));
  }
  buckets.forEach((bucket, index) => {
    const x = left + slot * index;
    chart.append(column(bucket, x, slot, y, base));
    const text = axisText(period, bucket.at, index, slot);
    if (text) chart.append(svg('text', { class: 'tick', x: x + slot / 2, y: height - 6, 'text-anchor': 'middle' }, text));
  });
  const pointed = ({ offsetX }) => Math.floor((offsetX - left) / slot);
  chart.addEventListener('pointermove', (event) => read(buckets[pointed(event)] ?? null));
  chart.addEventListener('pointerleave', () => read(null));
  return chart;
}

/** The bar of one bucket, refused on top of allowed, and behind it what the pointer lights up. */
function column({ allowed, denied }, x, slot, y, base) {
  const gap = Math.min(slot * 0.2, 6);
  const bar = (kind, from, to) => {
    if (to <= from) return null;
    // What is there at all is seen.
    const height = Math.max(y(from) - y(to), 1.5);
    return svg('rect', { class: kind, x: x + gap / 2, width: slot - gap, y: y(from) - height, height });
  };
  return svg('g', { class: 'column' },
    svg('rect', { class: 'lit', x, width: slot, y: 0, height: base }),
    bar('allowed', 0, allowed),
    bar('denied', allowed, allowed + denied));
}

/** 1, 2 or 5 times a power of ten, at least what is given and at least 1. */
function niceStep(least) {
  const power = 10 ** Math.floor(Math.log10(Math.max(least, 1)));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= least);
}

const short = (value) => new Intl.NumberFormat('en', { notation: 'compact' }).format(value);

const CLOCK = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit' });
const UTC_DAY = new Intl.DateTimeFormat('en', { month: 'short', day: 'numeric', timeZone: 'UTC' });

/** The text below a bar, where there is room for one. */
function axisText(period, at, index, slot) {
  const every = [1, 2, 3, 4, 5, 6, 8, 10].find((count) => count * slot >= 56) ?? 12;
  if ((period.count - 1 - index) % every) return null;
  return period.bucket === 'day' ? UTC_DAY.format(at) : CLOCK.format(at);
}

/** As in `14:00–15:00`, `Nov 23`. */
function bucketText(period, at) {
  if (period.bucket === 'day') return UTC_DAY.format(at);
  return `${CLOCK.format(at)}–${CLOCK.format(at + HOUR * 1_000)}`;
}

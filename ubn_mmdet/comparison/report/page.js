// Figures. Each is described by the json in its place, and drawn when it comes near.
const VIRIDIS = ['#440154', '#3b528b', '#21918c', '#5ec962', '#fde725']
const tip = document.createElement('div')
tip.className = 'tip'
tip.hidden = true
document.body.append(tip)

function svg (name, attributes, parent, text) {
  const made = document.createElementNS('http://www.w3.org/2000/svg', name)
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value)
  if (text !== undefined) made.textContent = text
  parent?.append(made)
  return made
}

function number (value) {
  return value === null ? '–' : Number(value.toPrecision(3)).toString()
}

// Lines of [text, colour], beside the pointer and within the window.
function showTip (event, lines) {
  tip.replaceChildren(...lines.map(([text, colour]) => {
    const line = document.createElement('div')
    line.textContent = text
    if (colour) line.style.borderLeft = `4px solid ${colour}`
    return line
  }))
  tip.hidden = false
  const right = event.clientX + 14 + tip.offsetWidth > innerWidth
  tip.style.left = `${Math.max(0, scrollX + event.clientX + (right ? -14 - tip.offsetWidth : 14))}px`
  tip.style.top = `${scrollY + event.clientY + 14}px`
}

function onPoint (target, lines) {
  for (const kind of ['pointermove', 'pointerdown']) {
    target.addEventListener(kind, event => {
      const shown = lines(event)
      if (shown) showTip(event, shown)
      else tip.hidden = true
    })
  }
  target.addEventListener('pointerleave', () => { tip.hidden = true })
}

// Round numbers within a range, some count of them.
function ticks (low, high, count) {
  const raw = (high - low) / count || 1
  const power = 10 ** Math.floor(Math.log10(raw))
  const step = [1, 2, 5, 10].map(x => x * power).find(x => x >= raw)
  const found = []
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(i * step)
  return found
}

// The frame of a figure: its picture, and scales from values to pixels.
function frame (div, { title, height, left, bottom = 34, x, y, xAxis, yTicks = true, xTicks = true }) {
  const width = Math.max(div.clientWidth, 200)
  const box = { left, right: width - 12, top: 28, bottom: height - bottom }
  const picture = svg('svg', { width, height, role: 'img', 'aria-label': title }, null)
  div.replaceChildren(picture)
  svg('text', { x: width / 2, y: 16, class: 'title' }, picture, title)
  const scale = (range, from, to) => value => from + (value - range[0]) / (range[1] - range[0] || 1) * (to - from)
  const toX = x && scale(x, box.left, box.right)
  const toY = y && scale(y, box.bottom, box.top)
  if (y && yTicks) {
    for (const value of ticks(...y, 5)) {
      svg('line', { x1: box.left, x2: box.right, y1: toY(value), y2: toY(value), class: 'grid' }, picture)
      svg('text', { x: box.left - 6, y: toY(value) + 4, class: 'end' }, picture, number(value))
    }
  }
  if (x && xTicks) {
    for (const value of ticks(...x, Math.max(2, width / 90))) {
      svg('line', { x1: toX(value), x2: toX(value), y1: box.top, y2: box.bottom, class: 'grid' }, picture)
      svg('text', { x: toX(value), y: box.bottom + 15, class: 'middle' }, picture, number(value))
    }
  }
  if (xAxis) svg('text', { x: (box.left + box.right) / 2, y: box.bottom + 29, class: 'middle quiet' }, picture, xAxis)
  return { picture, box, toX, toY }
}

function legend (div, series) {
  const list = document.createElement('div')
  list.className = 'legend'
  for (const { name, colour } of series) {
    const entry = document.createElement('span')
    entry.textContent = name
    entry.style.borderLeft = `1em solid ${colour}`
    list.append(entry)
  }
  div.append(list)
}

const painters = {
  lines (div, { title, axis, series }) {
    const xs = series.flatMap(s => s.x)
    const top = Math.max(...series.flatMap(s => s.high ?? s.y), 1e-9)
    const { picture, box, toX, toY } = frame(div, {
      title, height: 330, left: 48, xAxis: axis,
      x: [Math.min(...xs, axis === 'epoch' ? 1 : 0), Math.max(...xs)], y: [0, top * 1.03]
    })
    for (const { x, low, high, colour } of series.filter(s => s.low)) {
      const up = x.map((at, i) => `${toX(at)},${toY(high[i])}`)
      const down = x.map((at, i) => `${toX(at)},${toY(Math.max(low[i], 0))}`).reverse()
      svg('polygon', { points: [...up, ...down].join(' '), fill: colour, opacity: 0.15 }, picture)
    }
    for (const { x, y, colour } of series) {
      svg('polyline', { points: x.map((at, i) => `${toX(at)},${toY(y[i])}`).join(' '), stroke: colour, class: 'curve' }, picture)
      if (axis === 'epoch') x.forEach((at, i) => svg('circle', { cx: toX(at), cy: toY(y[i]), r: 3, fill: colour }, picture))
    }
    const guide = svg('line', { y1: box.top, y2: box.bottom, class: 'guide', visibility: 'hidden' }, picture)
    picture.addEventListener('pointerleave', () => guide.setAttribute('visibility', 'hidden'))
    const places = [...new Set(xs)].sort((a, b) => a - b)
    onPoint(picture, event => {
      const at = event.clientX - picture.getBoundingClientRect().left
      const near = places.reduce((a, b) => Math.abs(toX(b) - at) < Math.abs(toX(a) - at) ? b : a)
      guide.setAttribute('x1', toX(near))
      guide.setAttribute('x2', toX(near))
      guide.setAttribute('visibility', 'visible')
      const values = series.filter(s => s.x.includes(near)).map(s => {
        const i = s.x.indexOf(near)
        const spread = s.high ? ` ± ${number(s.high[i] - s.y[i])}` : ''
        return [s.y[i], `${s.name} ${number(s.y[i])}${spread}`, s.colour]
      })
      return [[`${axis} ${near}`], ...values.sort((a, b) => b[0] - a[0]).map(([, ...line]) => line)]
    })
    legend(div, series)
  },

  differences (div, { title, rows }) {
    const values = rows.flatMap(r => [r.mean, ...r.seeds, ...r['over seeds'] ?? [], ...r['over images'] ?? []])
    const low = Math.min(0, ...values)
    const high = Math.max(0, ...values)
    const margin = (high - low) * 0.04 || 1
    const names = Math.min(Math.max(...rows.map(r => r.name.length)) * 7.5 + 14, div.clientWidth * 0.4)
    const { picture, box, toX } = frame(div, {
      title, height: 70 + 44 * rows.length, left: names, bottom: 24, x: [low - margin, high + margin]
    })
    svg('line', { x1: toX(0), x2: toX(0), y1: box.top, y2: box.bottom, class: 'zero' }, picture)
    rows.forEach((row, i) => {
      const y = box.top + 44 * (i + 0.5)
      svg('text', { x: names - 10, y: y + 4, class: 'end' }, picture, row.name)
      const mark = (name, attributes, text) => onPoint(
        svg(name, { ...attributes, class: 'mark' }, picture), () => [[row.name, row.colour], [text]])
      const signed = value => (value > 0 ? '+' : '') + number(value)
      const band = (key, at, extra) => row[key] && mark('line', {
        x1: toX(row[key][0]), x2: toX(row[key][1]), y1: at, y2: at, stroke: row.colour, ...extra
      }, `95% ${key}: ${row[key].map(signed).join(' to ')}`)
      band('over images', y + 11, { 'stroke-width': 3, 'stroke-dasharray': '3 3' })
      band('over seeds', y, { 'stroke-width': 5 })
      for (const seed of row.seeds) mark('circle', { cx: toX(seed), cy: y, r: 3.5, fill: row.colour }, `one seed: ${signed(seed)}`)
      mark('circle', { cx: toX(row.mean), cy: y, r: 7, fill: row.colour }, `mean: ${signed(row.mean)}`)
    })
  },

  bars (div, { title, labels, series }) {
    const top = Math.max(...series.flatMap(s => s.y.map((y, i) => y + s.deviation[i])), 1e-9)
    const { picture, box, toX, toY } = frame(div, {
      title, height: 330, left: 48, x: [0, labels.length], y: [0, top * 1.03], xTicks: false
    })
    const width = (toX(1) - toX(0)) * 0.85 / series.length
    labels.forEach((label, i) => {
      const words = label.split(' and ')
      words.forEach((word, line) => svg('text', {
        x: toX(i + 0.5), y: box.bottom + 14 + 13 * line, class: 'middle small'
      }, picture, line ? `+ ${word}` : word))
      series.forEach(({ name, colour, y, deviation }, j) => {
        const x = toX(i + 0.075) + width * j
        const bar = svg('rect', { x, width: Math.max(width - 1, 1), y: toY(y[i]), height: box.bottom - toY(y[i]), fill: colour, class: 'mark' }, picture)
        const middle = x + width / 2
        svg('line', { x1: middle, x2: middle, y1: toY(y[i] + deviation[i]), y2: toY(Math.max(y[i] - deviation[i], 0)), class: 'zero' }, picture)
        onPoint(bar, () => [[label], [`${name} ${number(y[i])} ± ${number(deviation[i])}`, colour]])
      })
    })
    legend(div, series)
  },

  heat (div, { title, rows, x, values, limits }) {
    // A byte a cell, column by column: 0 where there is no value.
    const bytes = Uint8Array.from(atob(values), c => c.charCodeAt(0))
    const part = (i, j) => (bytes[i * rows.length + j] - 1) / 254
    const [low, high] = limits
    const left = Math.min(Math.max(...rows.map(row => row.length)) * 6 + 14, div.clientWidth * 0.45)
    const { picture, box, toX } = frame(div, {
      title, height: 92 + 12 * rows.length, left, bottom: 60, x: [0, x.at(-1)], xAxis: 'step'
    })
    const canvas = document.createElement('canvas')
    canvas.width = x.length
    canvas.height = rows.length
    const context = canvas.getContext('2d')
    x.forEach((_, i) => rows.forEach((_, j) => {
      if (part(i, j) < 0) return
      context.fillStyle = shade(part(i, j))
      context.fillRect(i, j, 1, 1)
    }))
    const height = 12 * rows.length
    svg('image', {
      x: box.left, y: box.top, width: box.right - box.left, height, preserveAspectRatio: 'none',
      href: canvas.toDataURL(), style: 'image-rendering: pixelated'
    }, picture)
    rows.forEach((row, j) => svg('text', { x: left - 6, y: box.top + 12 * j + 9, class: 'end tiny' }, picture, row))
    // What the colours mean.
    VIRIDIS.forEach((colour, i) => svg('rect', { x: box.left + 50 + 18 * i, y: box.bottom + 40, width: 18, height: 10, fill: colour }, picture))
    svg('text', { x: box.left + 44, y: box.bottom + 49, class: 'end small' }, picture, number(low))
    svg('text', { x: box.left + 56 + 18 * VIRIDIS.length, y: box.bottom + 49, class: 'small' }, picture, number(high))
    onPoint(picture, event => {
      const place = picture.getBoundingClientRect()
      const across = (event.clientX - place.left - box.left) / (box.right - box.left)
      const row = Math.floor((event.clientY - place.top - box.top) / 12)
      const column = Math.floor(across * x.length)
      if (across < 0 || across >= 1 || row < 0 || row >= rows.length) return null
      const at = part(column, row)
      return [[rows[row]], [`step ${x[column]}: ${number(at < 0 ? null : low + at * (high - low))}`]]
    })
  }
}

function shade (part) {
  const at = Math.min(Math.max(part, 0), 1) * (VIRIDIS.length - 1)
  const i = Math.min(Math.floor(at), VIRIDIS.length - 2)
  const [a, b] = [VIRIDIS[i], VIRIDIS[i + 1]].map(c => [1, 3, 5].map(k => parseInt(c.slice(k, k + 2), 16)))
  return `rgb(${a.map((channel, k) => Math.round(channel + (b[k] - channel) * (at - i)))})`
}

const figures = new Map()
for (const div of document.querySelectorAll('.plot')) {
  figures.set(div, JSON.parse(div.firstElementChild.textContent))
  div.replaceChildren()
}
function draw (div) {
  div.drawn = div.clientWidth
  painters[figures.get(div).kind](div, figures.get(div))
}
const near = new IntersectionObserver(entries => {
  for (const { target, isIntersecting } of entries) {
    if (isIntersecting && target.drawn !== target.clientWidth) draw(target)
  }
}, { rootMargin: '600px' })
const wide = new ResizeObserver(entries => {
  for (const { target } of entries) {
    if (target.drawn && target.drawn !== target.clientWidth) draw(target)
  }
})
for (const div of figures.keys()) {
  near.observe(div)
  wide.observe(div)
}

// Tables, sorted by what their cells begin with: a number, or a word.
function value (cell) {
  const text = cell.textContent.trim()
  const found = text.match(/^[<\s]*([+-]?[\d,]*\.?\d+(e[+-]?\d+)?)(?=[\s,]|$)/)
  return found ? Number(found[1].replaceAll(',', '')) : text
}

function sortable (table) {
  const heads = [...table.tHead.rows[0].cells]
  const body = table.tBodies[0]

  function sort (head, column) {
    const rows = [...body.rows].map(row => [value(row.cells[column]), row])
    const numbers = rows.filter(([x]) => typeof x === 'number')
    const words = rows.filter(([x]) => typeof x === 'string')
    // At first the highest number, or the first word.
    const now = head.getAttribute('aria-sort')
    const up = now ? now === 'descending' : !numbers.length
    heads.forEach(other => other.removeAttribute('aria-sort'))
    head.setAttribute('aria-sort', up ? 'ascending' : 'descending')
    numbers.sort(([a], [b]) => up ? a - b : b - a)
    // A word among numbers is a dash, and stays at the end.
    if (!numbers.length) words.sort(([a], [b]) => (up ? 1 : -1) * a.localeCompare(b))
    body.append(...[...numbers, ...words].map(([, row]) => row))
  }

  heads.forEach((head, column) => {
    const button = document.createElement('button')
    button.append(...head.childNodes)
    head.append(button)
    button.addEventListener('click', () => sort(head, column))
  })
  for (const cell of body.querySelectorAll('td')) {
    cell.classList.toggle('long', cell.textContent.length > 60)
  }
}
document.querySelectorAll('table').forEach(sortable)

// Contents, where there is more than one comparison.
const headings = [...document.querySelectorAll('h2')]
if (headings.length > 1) {
  const nav = document.createElement('nav')
  headings.forEach((heading, i) => {
    heading.id = `part-${i}`
    const link = document.createElement('a')
    link.href = `#part-${i}`
    link.textContent = heading.textContent
    nav.append(link)
  })
  document.querySelector('h1').after(nav)
}

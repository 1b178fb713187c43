// Figures, in the colours of the page.
const dark = matchMedia('(prefers-color-scheme: dark)')
const plots = [...document.querySelectorAll('.plot')]

function inPageColours (layout) {
  const style = getComputedStyle(document.documentElement)
  const colour = name => style.getPropertyValue(name).trim()
  const axis = { gridcolor: colour('--line'), zerolinecolor: colour('--quiet'), automargin: true }
  return {
    ...layout,
    font: { ...layout.font, color: colour('--text') },
    hoverlabel: { bgcolor: colour('--ground'), bordercolor: colour('--line'), font: { color: colour('--text') } },
    xaxis: { ...layout.xaxis, ...axis },
    yaxis: { ...layout.yaxis, ...axis }
  }
}

function draw (div) {
  const { data, layout } = div.figure
  Plotly.react(div, data, inPageColours(layout), { responsive: true, displaylogo: false, displayModeBar: false })
}

for (const div of plots) {
  div.figure = JSON.parse(div.firstElementChild.textContent)
  div.replaceChildren()
}
// Those far below wait until they are near: a page may have many.
const watch = new IntersectionObserver(entries => {
  for (const { target, isIntersecting } of entries) {
    if (isIntersecting) {
      watch.unobserve(target)
      draw(target)
    }
  }
}, { rootMargin: '600px' })
for (const div of plots) {
  div.style.minHeight = `${div.figure.layout.height}px`
  watch.observe(div)
}
dark.addEventListener('change', () => plots.filter(div => div.layout).forEach(draw))

// Tables, sorted by what their cells begin with: a number, or a word.
function value (cell) {
  const text = cell.textContent.trim()
  const number = text.match(/^[<\s]*([+-]?[\d,]*\.?\d+(e[+-]?\d+)?)(?=\s|$)/)
  return number ? Number(number[1].replaceAll(',', '')) : text
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

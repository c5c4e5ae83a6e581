// Opens pages in Chromium, one after the other, and says what a reader would see there.
//
// Reads {"width", "height", "pages": [{"url", "ready", "filter", "gone", "clicks", "texts",
// "charts", "pictures", "screenshot"}]} from standard input and writes the visible text of each page, a
// JSON list, to standard output. Once a page shows the text "ready", its runs are filtered until the
// text "gone" is gone, and the selectors in "clicks" are clicked; it is done when it shows all "texts", and so many drawn "charts" and loaded "pictures".

const { chromium } = require('playwright-core')
const fs = require('fs')

const PATIENCE = 60000 // ms
const SETTLING = 1500 // ms
const ASSISTANT = '[data-component-id="mlflow.assistant.chat_panel.close"]' // hides a third of the page
const QUIET = [
  '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync',
]

const PICTURE_WIDTH = 300 // pixels of a file, more than any icon has
const charts = (wanted) => document.querySelectorAll('.js-plotly-plot .main-svg').length >= wanted

const pictures = ([wanted, width]) =>
  [...document.images].filter((picture) => picture.naturalWidth > width).length >= wanted

const shown = (tab, text) => tab.getByText(text).filter({ visible: true }).first().waitFor()

async function filterRuns (tab, filter, gone) {
  const box = tab.getByTestId('search-box').first()
  await box.fill(filter)
  await box.press('Enter')
  await tab.getByText(gone).first().waitFor({ state: 'hidden' })
}

async function visit (tab, page) {
  const { url, ready, filter, gone, clicks, texts, screenshot } = page
  await tab.goto('about:blank') // pages differ after the # only, which loads nothing anew
  await tab.goto(url)
  await shown(tab, ready)
  if (await tab.locator(ASSISTANT).count()) await tab.locator(ASSISTANT).click()
  if (filter) await filterRuns(tab, filter, gone)
  for (const selector of clicks) await tab.locator(selector).first().click()
  for (const text of texts) await shown(tab, text)
  await tab.waitForFunction(charts, page.charts)
  await tab.waitForFunction(pictures, [page.pictures, PICTURE_WIDTH])
  await tab.waitForTimeout(SETTLING) // tables and charts fade in, and pages never stop asking
  if (screenshot) await tab.screenshot({ path: screenshot })
  return tab.locator('body').innerText()
}

async function main () {
  const { width, height, pages } = JSON.parse(fs.readFileSync(0, 'utf8'))
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM || '/usr/bin/chromium',
    chromiumSandbox: false,
    args: QUIET
  })
  const tab = await browser.newPage({ viewport: { width, height } })
  tab.setDefaultTimeout(PATIENCE)
  const seen = []
  for (const page of pages) seen.push(await visit(tab, page))
  process.stdout.write(JSON.stringify(seen))
  await browser.close()
}

main().catch((error) => {
  console.error(error)
  process.exit(1)
})

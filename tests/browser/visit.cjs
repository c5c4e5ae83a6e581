// Opens pages in Chromium, one after the other, and says what a reader would see there.
//
// Reads {"width", "height", "pages": [{"url", "ready", "search", "clicks", "texts", "charts",
// "screenshot"}]} from standard input and writes the visible text of each page, a JSON list, to
// standard output. Once a page shows the text "ready", charts are searched for by name and the
// selectors in "clicks" are clicked; it is done when it shows all "texts" and so many drawn "charts".

const { chromium } = require('playwright-core')
const fs = require('fs')

const PATIENCE = 60000 // ms
const SETTLING = 1500 // ms
const ASSISTANT = '[data-component-id="mlflow.assistant.chat_panel.close"]' // hides a third of the page
const QUIET = [
  '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync',
]

const charts = (wanted) => document.querySelectorAll('.js-plotly-plot .main-svg').length >= wanted

const shown = (tab, text) => tab.getByText(text).filter({ visible: true }).first().waitFor()

async function visit (tab, { url, ready, search, clicks, texts, charts: wanted, screenshot }) {
  await tab.goto('about:blank') // pages differ after the # only, which loads nothing anew
  await tab.goto(url)
  await shown(tab, ready)
  if (await tab.locator(ASSISTANT).count()) await tab.locator(ASSISTANT).click()
  if (search) await tab.getByPlaceholder('Search metric charts').fill(search)
  for (const selector of clicks) await tab.locator(selector).first().click()
  for (const text of texts) await shown(tab, text)
  await tab.waitForFunction(charts, wanted)
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

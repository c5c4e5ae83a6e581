// Opens pages in Chromium, one after the other, and says what a reader would see there.
//
// Reads {"width", "height", "pages": [{"url", "clicks", "texts", "charts", "screenshot"}]} from
// standard input and writes the visible text of each page, a JSON list, to standard output. A page
// is ready when it shows all its "texts" and as many drawn "charts" as asked for.

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

async function visit (tab, { url, clicks = [], texts, charts: wanted = 0, screenshot }) {
  await tab.goto('about:blank') // pages differ after the # only, which loads nothing anew
  await tab.goto(url)
  await tab.getByText(texts[0]).filter({ visible: true }).first().waitFor()
  if (await tab.locator(ASSISTANT).count()) await tab.locator(ASSISTANT).click()
  for (const label of clicks) await tab.getByText(label, { exact: true }).first().click()
  for (const text of texts) await tab.getByText(text).filter({ visible: true }).first().waitFor()
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

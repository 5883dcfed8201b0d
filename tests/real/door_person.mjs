// A person in Chromium at the door: node door_person.mjs NODE_MODULES CHROMIUM DIR PORT MAP COMMANDS
// COMMANDS is JSON: a list of { look, go, fill, pick, read, text, type, keys, click, onward, wait, shot, axe }, or "-": one a line from stdin, as they come; prints a JSON line each.
// onward: a click that leads to another page. axe: what axe-core finds on the page.
import { createRequire } from 'node:module';
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
const [modules, chromium_, dir, map, text] = process.argv.slice(2);
const { chromium } = createRequire(modules + '/x.js')('playwright-core');
const browser = await chromium.launch({ executablePath: chromium_, args: ['--no-sandbox', '--disable-gpu', `--host-resolver-rules=${map}`, '--ignore-certificate-errors'] });
const say = (o) => console.log(JSON.stringify(o));
const context = await browser.newContext({ javaScriptEnabled: false, ignoreHTTPSErrors: true });
const page = await context.newPage();
const cdp = await context.newCDPSession(page);
const said = [];
cdp.on('Log.entryAdded', (e) => said.push(e.entry.text));
cdp.on('Audits.issueAdded', (e) => said.push(e.issue.code + ' ' + JSON.stringify(e.issue.details.contentSecurityPolicyIssueDetails ?? {})));
await cdp.send('Log.enable');
await cdp.send('Audits.enable');
const focused = async () => (await cdp.send('Accessibility.getFullAXTree')).nodes
  .filter((n) => n.properties?.some((p) => p.name === 'focused' && p.value.value)).map((n) => `${n.role?.value}:${n.name?.value}`).filter((n) => !n.startsWith('RootWebArea'))[0];
async function* typed() { for await (const line of createInterface({ input: process.stdin })) yield JSON.parse(line); }
for await (const c of text === '-' ? typed() : JSON.parse(text)) {
  if (c.look) {
    await page.setViewportSize({ width: c.look.width ?? 1000, height: 800 });
    await page.emulateMedia({ colorScheme: c.look.dark ? 'dark' : 'light', forcedColors: c.look.forced ? 'active' : 'none' });
  }
  if (c.go) await page.goto(c.go);
  for (const [name, value] of Object.entries(c.fill ?? {})) await page.fill(`input[name="${name}"],textarea[name="${name}"]`, value);
  for (const [name, value] of Object.entries(c.pick ?? {})) await page.selectOption(`select[name="${name}"]`, value);
  if (c.type) { await page.keyboard.type(c.type); }
  for (const key of c.keys ?? []) await page.keyboard.press(key);
  if (c.click) { await page.click(c.click); }
  if (c.onward) await Promise.all([page.waitForNavigation(), page.click(c.onward)]);
  if (c.wait) { await page.waitForTimeout(c.wait); }
  const size = await cdp.send('Page.getLayoutMetrics').catch(() => null);
  if (c.shot) await page.screenshot({ path: `${dir}/${c.shot}.png`, fullPage: true });
  let axe;
  if (c.axe) {      // in a page of its own that runs scripts, with what the page is made of
    const other = await (await browser.newContext({ bypassCSP: true, viewport: page.viewportSize(), colorScheme: c.look?.dark ? 'dark' : 'light' })).newPage();
    await other.setContent(await page.content());
    await other.addScriptTag({ content: readFileSync(modules + '/axe-core/axe.min.js', 'utf8') });
    axe = (await other.evaluate(() => globalThis.axe.run())).violations.map((v) => `${v.id}: ${v.nodes.map((n) => n.html).join(' ').slice(0, 300)}`);
    await other.context().close();
  }
  const found = c.read ? (await page.content()).match(new RegExp(c.read))?.[0] : undefined;
  say({ axe, found, text: c.text ? await page.innerText('main') : undefined, cookies: c.cookies ? await context.cookies() : undefined, url: page.url(), title: await page.title().catch(() => ''), focus: await focused().catch(() => null), said: said.splice(0),
    wide: size ? size.cssContentSize.width > size.cssLayoutViewport.clientWidth : null });
}
await browser.close();

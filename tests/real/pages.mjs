// All pages of an operator in one Chromium: node pages.mjs NODE_MODULES CHROMIUM DIR PLAN
// PLAN is JSON: { login, user, password, first = paths behind the session's, most = pages of one kind, shots = whether to keep pictures }.
// Prints a JSON line a page: what axe-core finds, in light at 1280 px or in dark at 360 px by turns (both with `shots`), and at which
// widths the page is wider than the window.
import { createRequire } from 'node:module';
import { readFileSync } from 'node:fs';
import { request } from 'node:http';
const [modules, chromium_, dir, text] = process.argv.slice(2);
const plan = JSON.parse(text);
const { chromium } = createRequire(modules + '/x.js')('playwright-core');
const axe = readFileSync(modules + '/axe-core/axe.min.js', 'utf8');
const browser = await chromium.launch({ executablePath: chromium_, args: ['--no-sandbox', '--disable-gpu'] });
const context = await browser.newContext({ viewport: { width: 1280, height: 800 } });
const page = await context.newPage();
const said = [];
page.on('console', (m) => ['error', 'warning'].includes(m.type()) && said.push(m.text()));
page.on('pageerror', (e) => said.push(String(e)));

const looks = [[1280, 'light'], [360, 'dark'], ...(plan.shots ? [[1280, 'dark'], [360, 'light']] : [])];
const seen = new Map();
let shots = 0;
let turn = 0;
async function look(name, status = 200) {
  turn++;
  const found = [], wide = [];
  for (const [i, [width, colorScheme]] of looks.entries()) {
    await page.setViewportSize({ width, height: 800 });
    await page.emulateMedia({ colorScheme });
    if (await page.evaluate(() => document.documentElement.scrollWidth > document.documentElement.clientWidth)) wide.push(width);
    if (plan.shots) await page.screenshot({ path: `${dir}/${String(++shots).padStart(3, '0')}-${name.replace(/\W+/g, '-').slice(0, 50)}-${width}-${colorScheme}.png`, fullPage: true });
    if (plan.shots ? i < 2 : i === turn % 2) {        // by the debugger, which no Content-Security-Policy stops: the page is as people get it
      await page.evaluate(axe);
      const all = { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'] };
      const r = await page.evaluate((o) => globalThis.axe.run(o), all);
      found.push(...r.violations.map((v) => `${width} ${colorScheme} ${v.id}: ${v.nodes.map((n) => n.html).join(' ').slice(0, 300)}`));
    }
  }
  await page.setViewportSize({ width: 1280, height: 800 });
  const expected = `Failed to load resource: the server responded with a status of ${status} `;     // Chromium says it when it likes
  return { name, title: await page.title(), axe: found, wide, said: said.splice(0).filter((text) => status < 400 || !text.startsWith(expected)) };
}
const say = (o) => console.log(JSON.stringify(o));

async function enter(p) {
  await p.goto(plan.login);
  await p.fill('[name=user]', plan.user);
  await p.fill('[name=password]', plan.password);
  await p.click('button.go');
  await p.waitForURL(/\/s\/[\w-]+\/$/);
  return p.url();
}

await page.goto(plan.login);
say(await look('login'));
await page.fill('[name=user]', 'nobody');
await page.fill('[name=password]', 'a wrong password');
await Promise.all([page.waitForResponse((r) => r.request().method() === 'POST'), page.click('button.go')]);
await page.waitForLoadState();
say(await look('login refused', 403));
const base = await enter(page);
const todo = [...plan.first, ''];
while (todo.length) {
  const path = todo.shift();
  const kind = path.replace(/[?].*/, '').split('/').slice(0, path.startsWith('do/') ? (plan.shots ? 3 : 2) : 1).join('/') + (/[/]/.test(path) ? '/' : '') + (path.includes('o.type') || path.includes('o.preset') ? '?' : '');
  const n = seen.get(kind) ?? new Set();
  seen.set(kind, n);
  if (n.has(path) || n.size >= (plan.most ?? 2)) continue;
  n.add(path);
  const answer = await page.goto(base + path);
  const status = answer.status();
  say({ ...(await look(path, status)), path, status });
  for (const href of await page.$$eval('a[href]', (l) => l.map((a) => a.href))) {
    if (href.startsWith(base) && !href.includes('#') && !href.includes('live=') && !href.includes('/done/')) todo.push(href.slice(base.length));
  }
}

// Escaping alone: no Content-Security-Policy is in force, and every page is looked at again. What would run calls `ran`.
const open = await browser.newContext({ bypassCSP: true });
const bare = await open.newPage();
const ran = [];
await open.exposeFunction('ran', (what) => ran.push(what));
const again = await enter(bare);
for (const path of [...seen.values()].flatMap((s) => [...s])) await bare.goto(again + path, { waitUntil: 'load' });
const silent = ran.splice(0);
await bare.evaluate(() => document.body.insertAdjacentHTML('beforeend', '<img src=x onerror="ran(1)">'));
for (const end = Date.now() + plan.patience; !ran.length && Date.now() < end;) await bare.waitForTimeout(50);
say({ escaping: silent, would: ran.splice(0) });

// What is live comes without another load, and without a part of what the agent wrote running.
const agent = (method, path, headers, body) => new Promise((done, fail) => {
  const r = request({ host: '127.0.0.1', port: plan.proxy.port, method, path, headers }, (a) => { a.resume(); a.on('end', () => done(a.statusCode)); });
  r.on('error', fail);
  r.end(body);
});
let loads = 0;
page.on('framenavigated', () => loads++);
const live = {};
for (const [path, word, act] of [
  ['log', 'live-proof', () => agent('GET', 'http://no.test/live-proof', { Host: 'no.test', 'Proxy-Authorization': 'Basic ' + btoa('x:' + plan.proxy.token) })],
  ['approvals', 'later.test', () => agent('POST', '/v1/proposals', { Authorization: 'Bearer ' + plan.proxy.token }, JSON.stringify({ services: [{ name: 'later', host: 'later.test', auth: { type: 'passthrough' } }], user_message: 'x' }))]]) {
  await page.goto(base + path);
  loads = 0;
  const before = await page.textContent('#live');
  await act();
  const came = await page.waitForFunction((w) => document.getElementById('live').textContent.includes(w), word, { timeout: plan.patience }).then(() => true, () => false);
  live[path] = { before: before.includes(word), came, loads };
}
say({ live, said: said.splice(0) });

// A page of another origin of this machine, to which Chromium sends even SameSite=Strict cookies: it frames, fetches, opens and posts.
await page.goto(plan.thief);        // cookies ignore ports, and this server gets none
await page.setContent(`<iframe src="${base}"></iframe><iframe name="t"></iframe><form id="c" method="post" action="${base}do/agent/add" target="t"><input name="a1" value="thief"></form>`);
await page.waitForTimeout(500);
const [answer] = await Promise.all([page.waitForResponse((r) => r.request().method() === 'POST'), page.evaluate(() => document.getElementById('c').submit())]);
const fetched = await page.evaluate((u) => fetch(u, { credentials: 'include' }).then((r) => 'read ' + r.status, () => 'refused'), base);
const [popup] = await Promise.all([context.waitForEvent('page'), page.evaluate((u) => { globalThis.w = open(u); }, base)]);
await popup.waitForLoadState();
say({ posted: answer.status(), fetched, framed: page.frames().filter((f) => f.url().includes('/s/')).length,
  opened: [new URL(popup.url()).pathname === new URL(base).pathname, await popup.evaluate(() => globalThis.opener === null), await page.evaluate(() => globalThis.w.closed)] });
await popup.close();
said.splice(0);

// The policy alone: what an answer of ours would be with markup in it that nobody escaped.
const shut = await browser.newContext();
const held = await shut.newPage();
await shut.exposeFunction('ran', (what) => ran.push(what));
const own = await enter(held);
const evil = `<script>ran("script")</script><img src="${plan.thief}x" onerror="ran('onerror')"><svg onload="ran('onload')"></svg><a id="js" href="javascript:ran('link')">x</a>
<iframe srcdoc="<script>parent.ran('frame')</script>"></iframe><object data="data:text/html,x"></object><base href="${plan.thief}"><script src="data:text/javascript,ran('data')"></script>
<form id="away" action="${plan.thief}"><input name="q"></form><div style="position:fixed;color:rgb(1,2,3)" id="styled">x</div><meta http-equiv="Content-Security-Policy" content="script-src *">`;
const stopped = {};
for (const path of ['', 'log', 'agents', 'do/agent/add']) {
  await held.route(own + path, async (route) => {
    const answer = await route.fetch();
    await route.fulfill({ response: answer, body: (await answer.text()).replace(/(<main[^>]*>)/, `$1${evil}`) });
  });
  await held.goto(own + path, { waitUntil: 'load' });
  await held.click('#js', { force: true, timeout: 2000 }).catch(() => {});
  await held.evaluate(() => document.getElementById('away').submit());
  await held.waitForTimeout(200);
  stopped[path] = { at: held.url() === own + path, base: await held.evaluate(() => document.baseURI === location.href), styled: await held.evaluate(() => getComputedStyle(document.getElementById('styled')).position) };
}
say({ policy: ran.splice(0), stopped });
await browser.close();

--- sallyport admin: the page, on a loopback port, for as long as somebody is signed in.
local db = require "cli.db"
local records = require "records"
local report = require "cli.report"

local CERT_LOOK = 5000  -- ms between two looks whether the certificate's files are others
local POLL = 200        -- ms between two looks whether it is over
local IDLE, SIGNED_IN = 600, 3600       -- s without a request until the page's process ends that nobody asked for; and while people are signed in

-- The one-time code goes to the browser in a file that is its owner's alone: an address would stand in another
-- process's arguments, which every user of the machine can read.
local function open_browser(ctx, desk)
  local host = ctx.host
  if (host.getenv("DISPLAY") or "") == "" and (host.getenv("WAYLAND_DISPLAY") or "") == "" then return nil end
  local path = ctx.home .. "/admin.html"
  local text = ([[<!doctype html><meta charset="utf-8"><title>Sallyport</title><form method="post" action="http://%s/start">
<input type="hidden" name="code" value="%s"><button>Open Sallyport</button></form><script>document.forms[0].submit()</script>
]]):format(desk.at, desk.code)
  if not require("cli.files").write(host, path, text, tonumber("600", 8)) then return nil end
  local url = "file://" .. path:gsub("[^%w/._~-]", function(c) return ("%%%02X"):format(c:byte()) end)
  local shown = os.execute(("command -v xdg-open >/dev/null && { setsid xdg-open '%s' </dev/null >/dev/null 2>&1 & }"):format(url))
  return shown == true and path or nil
end

-- The page's process of a server, which starts it with its listeners: operators sign in. It ends with the server; or, where there is
-- no --admin, when nobody has asked on the control socket for a while.
local function served(text, ctx)
  local given, own_cert, time = require("json").decode(text), require "own_cert", require "time"
  if type(given) ~= "table" or type(given.listeners) ~= "table" then report.usage("--served is for the server") end
  db.open(ctx)
  local is = ctx.host.stat(ctx.home, true)
  local site = require("web.desk").new(ctx.home, { url = given.url, owner = is.uid })
  for _, l in ipairs(given.listeners) do
    if l.at:sub(1, 5) ~= "unix:" then site.names[l.at] = l.tls and "https" or "http" end
  end
  if given.cert and not require("worker").authority() then report.fail("the CA of this store is missing or damaged") end
  if given.cert then own_cert.use("page", given.cert, given.key) end
  local handler, busy = require("web.local_api").new(site, is.uid)
  local ok, why = ctx.host.serve_page(given.listeners, handler)
  if not ok then report.fail(("the page cannot be served: %s"):format(why)) end
  local ended, looked = ctx.host.interrupts(), time.now()
  while not ended(0) do
    time.sleep(POLL)
    if time.now() - looked > CERT_LOOK then
      looked = time.now()
      own_cert.look()
    end
    local n, still = busy()
    if given.demand and n == 0 and still > (next(site.desks) and SIGNED_IN or IDLE) then return 0 end
  end
  return 0
end

local function run(_, opt, ctx)
  if opt.served then return served(opt.served, ctx) end
  db.open(ctx)
  local port = (opt.port or "0") == "0" and 0 or records.port(opt.port)
  if not port then report.usage("--port is a number from 0 to 65535 (0 picks one)") end
  local desk = require("web.desk").new(ctx.home)
  local at, why = ctx.host.listen { address = "127.0.0.1", port = port, handler = desk.answer }
  if not at then
    report.fail(("cannot listen on 127.0.0.1:%d: %s"):format(port, why == "in_use" and "Address already in use" or why),
      "--port 0 picks a free one")
  end
  desk.at = ("127.0.0.1:%s"):format(at:match(":(%d+)$"))
  desk.names[desk.at] = "http"
  local file = not opt.print and open_browser(ctx, desk)
  if file then
    ctx.note("A browser opens. It is signed in until you sign out there, or end this command (Ctrl-C).")
    if ctx.json then ctx.emit { address = desk.at } end
  else
    local link = ("http://%s/start?code=%s"):format(desk.at, desk.code)
    ctx.note("Open this address in a browser on this machine, within ten minutes; it is good once:\n")
    if ctx.json then ctx.emit { address = desk.at, open = link } else ctx.out(link .. "\n") end
    io.stdout:flush()
    ctx.note("\nThe page is there until you sign out, or end this command (Ctrl-C).")
  end
  local time = require "time"
  while not desk.over and not desk.idle() do
    time.sleep(POLL)
    if file and not desk.code then os.remove(file); file = nil end
  end
  if file then os.remove(file) end
  time.sleep(POLL)        -- the last answer goes out
  ctx.host.listen_close()
  report.answer(ctx, { address = desk.at })
  return 0
end

return {
  { words = "admin", max = 0, summary = "the page: see and steer the box in a browser",
    options = {
      { name = "print", help = "print an address in place of opening a browser" },
      { name = "port", arg = "N", help = "the port on 127.0.0.1; one that is free unless named" },
    },
    hidden = { { name = "served", arg = "JSON" } },     -- for the server's own process of the page
    help = [[
Serves the page of this box on 127.0.0.1 and opens a browser on it: what the box does, credentials and apps to connect,
agents, bundles, rules, policies, the log with its explanations, the door, and settings. Each change is made by the command
that the page names, and is a record of kind `change`. It runs beside the proxy, needs no network, and ends with Ctrl-C, when
you sign out, or after an hour without a look. Whoever is signed in can do what this user's commands can, with three
exceptions: a credential goes to another place only where its secret is typed again; settings that name files or say
where connections go (connect-to, upstream-ca) stay on the command line; and so do changes of policies but rules.

On a box without a browser, --print and ssh: ssh -L 7082:127.0.0.1:7082 box sallyport admin --print --port 7082

A server can have it for good, for people who sign in with a password: sallyport help page

examples:
  sallyport admin
  sallyport admin --print --port 7082
]], run = run },
}

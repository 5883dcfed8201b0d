--- sallyport set
local db = require "cli.db"
local home = require "cli.home"
local page = require "cli.page"
local records = require "records"
local report = require "cli.report"
local terminal = require "cli.terminal"
local settings = require "cli.settings"

-- The others count while it runs.
local at_start = { listen = true, ["listen-tls"] = true, transparent = true, workers = true, memory = true, helpers = true, log = true, ["log-file"] = true,
  gateway = true, ["gateway-workers"] = true, ["log-size"] = true, ["log-age"] = true, ["log-group"] = true,
  admin = true, ["admin-url"] = true, ["admin-cert"] = true, ["admin-key"] = true }
local gone = { ["log-records"] = "the request log is bounded in bytes now: sallyport set log-size 64m" }

local function unknown(name)
  local names = {}
  for i, s in ipairs(records.setting_list) do names[i] = s.name end
  local near = records.nearest(name, names)
  report.usage(("there is no setting '%s'"):format(report.clean(name):sub(1, 40)), gone[name] or
    near and ("did you mean %s?"):format(near) or "sallyport set lists them")
end

-- Is a secret of that name kept with the record? What it is, nothing shows.
local function has_secret(record, name)
  for _, sealed in ipairs(record.sealed or {}) do
    if sealed == name then return true end
  end
  return false
end

-- What the running proxy was told by the flag of this name, which counts before what is kept | nil
local function flag_of(ctx, s)
  local running = home.running(ctx)
  local flags = running and running.flags
  return flags and flags[s.key]
end

-- As JSON shows it: no value where there is none. flag: what the running proxy has in its place.
local function shown(s, value, set, password, flag)
  return { value = s.many and report.array(value) or value, set = set, password = password or nil, flag = s.many and flag and report.array(flag) or flag }
end

-- Whoever changes what a flag of the running proxy overrides is told so.
local function say_flag(ctx, s)
  local flag = flag_of(ctx, s)
  if flag == nil then return end
  ctx.note(("note: the running proxy was started with --%s, which counts before this until it is started without it: there it is %s"):format(s.name,
    settings.show(s, flag) == "" and "empty" or settings.show(s, flag)))
end

-- One that is kept with a secret: set NAME VALUE [SECRET=@FILE]
local function set_with_secret(args, ctx, s)
  if #args > 3 then report.usage(("%s takes its address and, perhaps, %s=@FILE"):format(s.name, s.secret)) end
  local proxy, key = require "cli.upstream_proxy", "set/" .. s.name
  local value = settings.read(ctx, s, args[2], s.name)
  local running = require("cli.home").running(ctx)
  proxy.refuse_own(value, running and running.listen or records.settings(nil).listen, s.name)
  local password = proxy.password(ctx, value, args[3], key, s.name)
  db.change(function() return { proxy.write(key, value, password) } end)
  report.answer(ctx, { [s.name] = shown(s, value, true, password ~= nil) })
  ctx.note(("%s is %s now%s."):format(s.name, value, password and ", with a password" or ""))
  say_flag(ctx, s)
  return 0
end

-- login-oidc ISSUER client_id=ID client_secret=@FILE [emails=on] [only=on] [address=CIDR]
local function set_login(args, ctx, s)
  local value = settings.read(ctx, s, args[2], s.name)
  local plain, secrets = { name = s.name, value = value }, nil
  for i = 3, #args do
    local a, why = records.assignment(args[i])
    if not a or a.key then report.usage(why or "a field is given as FIELD=VALUE") end
    if a.name == "client_secret" then
      secrets = { client_secret = require("cli.fields").secret(ctx, a, a.name, {}, true) }
    elseif a.name == "client_id" and a.from == "literal" and a.value ~= "" then
      plain.client_id = a.value
    elseif a.name == "address" and a.from == "literal" then
      plain.address, why = records.cidr(a.value)
      if not plain.address then report.usage("address: " .. why) end
    elseif (a.name == "emails" or a.name == "only") and a.from == "literal" then
      plain[a.name], why = records.switch(a.value)
      if plain[a.name] == nil then report.usage(("%s: %s"):format(a.name, why)) end
    else
      report.usage("login-oidc takes client_id=ID client_secret=@FILE, and perhaps emails=on, only=on, address=CIDR")
    end
  end
  if not plain.client_id then report.usage("the provider knows us by an id: client_id=ID") end
  db.change(function() return { { op = "put", db = "meta", key = "set/" .. s.name, plain = plain, secrets = secrets } } end)
  report.answer(ctx, { [s.name] = shown(s, value, true) })
  local box = require("web.access").issuer()
  ctx.note(("People sign in with %s now. Its redirect URI: %s/login/oidc/callback"):format(value, box or "PUBLIC-URL"))
  say_flag(ctx, s)
  return 0
end

-- webhook URL [target=@FILE] [secret=@FILE] [address=CIDR]: as `webhook set`, whose options are settings here.
local function set_webhook(args, ctx, s)
  local hook = require "cli.webhook"
  local told, made = hook.keep(ctx, { url = args[2] }, table.move(args, 3, #args, 1, {}), true)
  local out = shown(s, told.url, true)
  out.secret = made
  report.answer(ctx, { [s.name] = out })
  say_flag(ctx, s)
  hook.show_once(ctx, made)
  return 0
end

local function list_all(ctx)
  local rows, out = {}, {}
  for _, s in ipairs(records.setting_list) do
    local kept = db.peek("meta", "set/" .. s.name, "the setting " .. s.name)
    local value = s.default
    if kept then value = kept.value end
    local has = s.secret and kept and has_secret(kept, s.secret) or nil
    local flag = flag_of(ctx, s)
    local of_flag = flag ~= nil and { s.name, settings.show(s, flag), "serve", s.help }
    rows[#rows + 1] = of_flag or { s.name, settings.show(s, value) .. (has and (" (with a %s)"):format(s.secret) or ""), kept and "set" or "default", s.help }
    out[s.name] = shown(s, value, kept ~= nil, has, flag)
  end
  ctx.out(ctx.json and report.json(out) or terminal.columns(ctx, { "SETTING", "VALUE", "FROM", "" }, rows))
  return 0
end

local function help_rows()
  local lines = {}
  for _, s in ipairs(records.setting_list) do
    lines[#lines + 1] = { s.name .. " " .. s.arg .. (s.many and " …" or ""), s.help }
  end
  return page.pairs(lines, 30) .. "\n"
end

return {
  { words = "set", args = "[NAME [VALUE…]]", summary = "settings that commands and server share",
    options = { { name = "default", help = "forget the kept value" } },
    help = [[
Without a name it lists the settings; with a name it shows one; with values it keeps them.
A flag of `serve` with the same name counts before the kept value: what the running proxy has by one is listed as from `serve`. `listen`, `workers`, `memory`, `helpers` and those
of the log are read when the proxy starts, the others while it runs.

]] .. help_rows() .. [[

examples:
  sallyport set
  sallyport set listen 127.0.0.1:7080 10.0.0.5:7080
  sallyport set upstream-ca /etc/ssl/corp-root.pem
  sallyport set echo off
  sallyport set upstream-proxy http://me@proxy.corp.example:3128 password=@proxy.txt
  sallyport set login-oidc https://accounts.example.com client_id=sallyport client_secret=@secret.txt emails=on
  sallyport set upstream-no-proxy .corp.example 10.0.0.0/8
  sallyport set listen --default
]],
    run = function(args, opt, ctx)
      db.open(ctx)
      if not args[1] then return list_all(ctx) end
      local s = records.setting(args[1]) or unknown(args[1])
      local key = "set/" .. s.name
      if opt.default then
        db.change(function() return { { op = "del", db = "meta", key = key } } end)
        if s.name == "public" then home.try_client_files(ctx) end
        report.answer(ctx, { [s.name] = shown(s, s.default, false) })
        ctx.note(("%s is %s again."):format(s.name, settings.show(s, s.default) == "" and "not set" or settings.show(s, s.default)))
        say_flag(ctx, s)
        return 0
      end
      if not args[2] then
        local kept = db.peek("meta", key, "the setting " .. s.name)
        local value = s.default
        if kept then value = kept.value end
        ctx.out(ctx.json and report.json { [s.name] = shown(s, value, kept ~= nil, s.secret and kept and has_secret(kept, s.secret), flag_of(ctx, s)) } or settings.show(s, value) .. "\n")
        say_flag(ctx, s)
        return 0
      end
      if s.secret then return set_with_secret(args, ctx, s) end
      if s.hook then return set_webhook(args, ctx, s) end
      if s.login then return set_login(args, ctx, s) end
      if #args > 2 and not s.many then report.usage(("%s takes one value"):format(s.name)) end
      local given = {}
      for i = 2, #args do
        for item in args[i]:gmatch(s.many and "[^,]+" or ".+") do
          local part = s.name:find("^listen") and given[1] and item:find("^%l+=")     -- unix:/PATH,mode=0660,group=NAME is one
          given[part and #given or #given + 1] = part and given[#given] .. "," .. item or item
        end
      end
      if #given == 0 and not s.many then
        report.usage(("%s needs a value"):format(s.name), ("sallyport set %s --default puts it back"):format(s.name))
      end
      local value = settings.read(ctx, s, given, s.name)
      local before = s.name == "public" and home.public(ctx)
      local first = s.name:find "^gateway%-[ck]e" and not records.settings(nil)[s.key]    -- whether the door speaks TLS stands when it opens
      if s.name == "public" then home.client_files(ctx, value) end
      if s.name == "helpers" then
        local ok, why = ctx.host.helpers(value, true)
        if not ok then
          report.fail(("helpers: %s: %s"):format(value, why == "absent" and "there is no such folder" or why))
        end
      end
      db.change(function()
        return { { op = "put", db = "meta", key = key, plain = { name = s.name, value = value } } }
      end)
      report.answer(ctx, { [s.name] = shown(s, value, true) })
      local restart = at_start[s.name] or first
      ctx.note(("%s is %s now%s."):format(s.name, settings.show(s, value),
        restart and ctx.host.lock_held(ctx.home) and ", from the next start of the proxy" or ""))
      say_flag(ctx, s)
      if value == "openssl" and not ctx.host.openssl() then
        ctx.note(("OpenSSL cannot be loaded here: %s. %s"):format(select(2, ctx.host.openssl()), s.name == "agent-tls" and "BearSSL goes on."
          or "No upstream will be reached over TLS: sallyport set upstream-tls auto"))
      end
      if before and before ~= value then
        ctx.note(("Environments that name %s are as they were: print them anew, then that folder may go."):format(before))
      end
      return 0
    end },
}

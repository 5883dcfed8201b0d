--- Signing in to an account, and out of it, at the terminal: what `connect`, `disconnect` and `mcp add` do.
local connect = require "cli.authorization"
local db = require "cli.db"
local oauth = require "oauth"
local records = require "records"
local report = require "cli.report"
local token = require "token"
local M = {}

local WAIT_MS = 600000     -- ten minutes: a person signs in, looks for a second factor, reads what is asked

local sentence = connect.sentence

--- The credential that the command names, and what is needed to talk to its server.
local function open(ctx, name)
  db.open(ctx)
  db.need("credential", name)
  local env, why = connect.env(ctx)
  if not env then report.fail(why) end
  local opened, code, detail = connect.open(env, name)
  if opened then return env, opened end
  if code == "no_connect" then
    report.fail(("'%s' is of the type %s, which nobody connects: it has its secret already"):format(name, detail),
      ("sallyport credential test %s"):format(name))
  end
  report.fail(("'%s' cannot be used: %s"):format(name, tostring(detail)), "sallyport credential show " .. name)
end

-- Data goes out at once: whoever waits for the address may be a program behind a pipe.
local function say(ctx, text, event)
  if ctx.json then return ctx.emit(event) end
  ctx.out(text)
  io.stdout:flush()
end

local function keep(ctx, env, opened, answer, sent_at, scopes)
  local ok, code = env.tokens:connected(opened, answer, sent_at, scopes)
  if not ok then
    report.fail(("the account consented, but its tokens could not be stored: %s"):format(sentence(code)),
      ("nothing was changed; sallyport connect %s again"):format(opened.name))
  end
  local renews = answer.secrets.refresh_token ~= nil
  ctx.note(("Connected '%s'. %s"):format(opened.name, renews and "Its token is kept fresh from now on."
    or "The server gave no refresh token: its token is used until it ends, then connect it again."))
  local lacks = answer.granted and oauth.missing(scopes, answer.granted, renews) or {}
  if lacks[1] then
    ctx.note(("note: asked for and not granted, by the server's word: %s"):format(report.clean(table.concat(lacks, " "))))
  end
  return 0
end

local function failed(opened, code, detail)
  local why = sentence(code, detail)
  report.fail(("'%s' was not connected: %s"):format(opened.name, why),
    ("what was there before is as it was; sallyport connect %s tries again"):format(opened.name))
end

-- What is asked for: more than the operator chose only with a yes at the terminal, or by --scope.
local function scopes_of(ctx, env, opened, opt)
  local scopes, more = connect.scopes(env, opened)
  for _, scope in ipairs(opt.scope or {}) do
    if oauth.scopes(scope, 1)[1] ~= scope then report.usage("--scope is one scope, as the provider writes it") end
  end
  scopes = token.union(scopes, opt.scope)
  local left, words = {}, ""
  for _, scope in ipairs(more) do
    if #token.union(scopes, { scope }) > #scopes then
      left[#left + 1] = scope
      words = words .. " --scope " .. require("env").quote(scope)
    end
  end
  if not left[1] then return scopes end
  local named = report.clean(table.concat(left, " "))
  ctx.note(("An API that '%s' is used with has asked for further scopes, when an agent called it: %s"):format(opened.name, named))
  if ctx.host.isatty(0) then
    return report.ask(ctx, "Is the consent to ask for them too?") and token.union(scopes, left) or scopes
  end
  ctx.note(("They are not asked for. If they should be:\n    sallyport connect %s%s"):format(opened.name, words))
  return scopes
end

-- ---- three ways to a code ------------------------------------------------------------------------

local function by_terminal(ctx, env, asked)
  ctx.note("Open this address in a browser, anywhere, and consent:\n")
  say(ctx, asked.url .. "\n", { open = asked.url })
  ctx.note("\nThe browser ends on an address that may not load. Paste that whole address here:")
  local line = io.read("l")
  if not line then return nil, "no_code" end
  return connect.pasted(env, asked, line)
end

-- Whether there was a desktop to ask. The address is in the program's arguments, which other users of the machine may see: it
-- names a state and a challenge, never a secret. Our umask is stricter than a browser's files should be, and nobody waits for it.
local function open_browser(host, url)
  if (host.getenv("DISPLAY") or "") == "" and (host.getenv("WAYLAND_DISPLAY") or "") == "" then return false end
  return os.execute(("command -v xdg-open >/dev/null && { umask 022; setsid xdg-open '%s' </dev/null >/dev/null 2>&1 & }"):format(
    url:gsub("'", [['\'']]))) == true
end

local function by_browser(ctx, env, opt, asked, listener)
  local shown = not opt.no_browser and open_browser(env.host, asked.url)
  ctx.note(shown and "A browser opens. If it does not, open this address and consent:\n"
    or "Open this address in a browser on this machine and consent:\n")
  say(ctx, asked.url .. "\n", { open = asked.url })
  ctx.note(("\nWaiting for the answer on %s (10 minutes; Ctrl-C gives up)."):format(asked.redirect_uri))
  return connect.wait(env, listener, asked, env.time.now() + WAIT_MS, function(text) ctx.note("note: " .. text) end)
end

-- The redirect address that counts, and whether something can wait there.
local function redirect_of(opt, opened)
  local uri = opt.redirect_uri or opened.view.redirect_uri or connect.REDIRECT
  local port
  if opt.port then
    port = opt.port == "0" and 0 or records.port(opt.port)
    if not port then report.usage("--port is a number from 0 to 65535 (0 picks one)") end
  end
  return uri, port
end

local function by_code(ctx, env, opened, opt)
  if opened.rec.claude_code then
    report.fail(("the account of '%s' is signed in to by the Claude Code CLI"):format(opened.name),
      ("claude, then /login; sallyport import claude-code --name %s"):format(opened.name))
  elseif not opened.view.authorization_url then
    report.fail(("'%s' has no authorization_url"):format(opened.name), opened.view.device_authorization_url
      and ("sallyport connect %s --device"):format(opened.name)
      or ("sallyport credential set %s authorization_url=…"):format(opened.name))
  end
  local redirect, port = redirect_of(opt, opened)
  local scopes = scopes_of(ctx, env, opened, opt)
  local listener
  if not opt.code_from_terminal then
    local bound, why
    listener, bound, why = connect.listen(env, redirect, port)
    if not listener and bound == "not_loopback" then
      opt.code_from_terminal = true      -- nothing can wait there: the person carries the address over
    elseif not listener then
      report.fail(("cannot wait on %s: %s"):format(report.clean(redirect), connect.say[bound] or tostring(why)),
        "another `connect` may wait there; --port N or --port 0 where the provider allows it, or --code-from-terminal")
    else
      redirect = bound
    end
  end
  local asked = connect.ask(env, opened, { redirect_uri = redirect, scopes = scopes })
  local code, second, detail
  if listener then
    code, second, detail = by_browser(ctx, env, opt, asked, listener)
  else
    code, second, detail = by_terminal(ctx, env, asked)
  end
  local answer, sent_at
  if code then
    local page = listener and second or function() end
    answer, sent_at, detail = connect.exchange(env, opened, connect.code_grant(asked, code))
    page(answer ~= nil, answer and ("The account is connected to '%s'. You can close this window."):format(opened.name)
      or "The terminal says why. You can close this window.")
  else
    sent_at = second
  end
  if listener then listener:close() end
  if not answer then
    if sent_at == "timeout" and not code then
      report.fail("nobody came back within ten minutes", ("sallyport connect %s tries again"):format(opened.name))
    end
    failed(opened, sent_at, detail)
  end
  return keep(ctx, env, opened, answer, sent_at, scopes)
end

local function by_device(ctx, env, opened, opt)
  local scopes = scopes_of(ctx, env, opened, opt)
  local device, code, detail = connect.device(env, opened, scopes)
  if code == "no_device_url" then
    report.fail(("'%s' has no device_authorization_url"):format(opened.name),
      ("sallyport credential set %s device_authorization_url=…, if the server supports RFC 8628"):format(opened.name))
  end
  if not device then failed(opened, code, detail) end
  -- The server's words, on the operator's terminal.
  ctx.note("On any device, open this address and enter the code:\n")
  say(ctx, ("%s\n%s\n"):format(report.clean(device.uri), report.clean(device.user_code)),
    { open = report.clean(device.uri), code = report.clean(device.user_code) })
  if type(device.complete) == "string" then ctx.note("\nor open " .. report.clean(device.complete)) end
  ctx.note("\nWaiting for it to be approved (Ctrl-C gives up).")
  local answer, sent_at
  answer, sent_at, detail = connect.poll(env, opened, device)
  if not answer then failed(opened, sent_at, detail) end
  return keep(ctx, env, opened, answer, sent_at, scopes)
end

--- Connects the credential `name`. opt: `connect`'s options.
function M.connect(ctx, name, opt)
  local env, opened = open(ctx, name)
  local code = (opt.device and by_device or by_code)(ctx, env, opened, opt)
  report.answer(ctx, require("cli.shape").credential_named(name))
  return code
end

-- Of the server that was to revoke: its tokens come from elsewhere.
local function revoking(code, detail) return (sentence(code, detail):gsub("the token endpoint", "the revocation_url")) end

--- Revokes the grant where the server can, and forgets it. opt.force: forgets it even where the server fails.
function M.disconnect(ctx, name, opt)
  local env, opened = open(ctx, name)
  local done, code, detail = connect.disconnect(env, opened, opt.force)
  if code == "newer_grant" then report.fail(("'%s' is connected: %s"):format(opened.name, sentence(code))) end
  if not done then
    report.fail(("'%s' is still connected: its server did not revoke the grant: %s"):format(opened.name,
      revoking(code, detail)), ("try again later, or forget it here alone: sallyport disconnect %s --force"):format(opened.name))
  end
  if done == "nothing" then
    ctx.note(("'%s' was not connected."):format(opened.name))
  elseif done == "revoked" then
    ctx.note(("'%s' is disconnected: its grant was revoked at the server, and forgotten here."):format(opened.name))
  elseif code then
    ctx.note(("'%s' is forgotten here; the server did not revoke its grant (%s): end it on the provider's own page.")
      :format(opened.name, revoking(code, detail)))
  else
    ctx.note(("'%s' is forgotten here. It has no revocation_url, so the grant itself goes on until it is ended on the "
      .. "provider's own page."):format(opened.name))
  end
  report.answer(ctx, require("cli.shape").credential_named(name))
  return 0
end

return M

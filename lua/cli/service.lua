--- sallyport service
local report = require "cli.report"

local USER = "sallyport"
local DATA = "/var/lib/sallyport"

-- The clients' folder lies beside the data directory, where only root may make it: so root does, before the start. A place
-- that --public names is one for `serve` too, unless it is the usual one.
local SYSTEMD = [[
# sallyport service print systemd > /etc/systemd/system/sallyport.service
# Once, as root:
#   useradd --system --home-dir %HOME% --shell /usr/sbin/nologin %USER%
#   systemctl daemon-reload && systemctl enable --now sallyport
# Every command then runs as that user: runuser -u %USER% -- env SALLYPORT_HOME=%HOME% sallyport status
# sallyport help operating says more: agents of other users, the log, backups, upgrades.
[Unit]
Description=Sallyport, an egress proxy that attaches the credentials agents never hold
Wants=network-online.target
After=network-online.target

[Service]
Type=exec
User=%USER%
Environment=SALLYPORT_HOME=%HOME%
ExecStartPre=+/usr/bin/install -d -o %USER% -m 0700 %HOME%
ExecStartPre=+/usr/bin/install -d -o %USER% -m 0755 %PUBLIC%
ExecStart=%PROGRAM% serve%FLAG%
# SIGTERM drains: what runs may finish, for 30 s
KillMode=mixed
TimeoutStopSec=40
Restart=on-failure
RestartSec=1
# Secrets stay out of the swap and of core dumps
LimitMEMLOCK=64M
LimitCORE=0
LimitNOFILE=65536
UMask=0077
# /var/log/%USER%, for sallyport set log-file
LogsDirectory=%USER%
LogsDirectoryMode=0750
# /run/sallyport/control: whoever connects is known by the kernel's word (sallyport help doors)
RuntimeDirectory=sallyport
RuntimeDirectoryMode=0755
ReadWritePaths=-%HOME% -%PUBLIC%
NoNewPrivileges=yes
CapabilityBoundingSet=
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_NETLINK AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native

[Install]
WantedBy=multi-user.target
]]

local function run(args, opt, ctx)
  if args[1] ~= "systemd" then report.usage("a unit is printed for systemd alone", "sallyport service print systemd") end
  local data, user = opt.data or DATA, opt.user or USER
  local public = opt.public or data .. "-public"
  for name, path in pairs { data = data, public = public } do
    if not path:find("^/[%w/._-]+$") then report.usage(("--%s is an absolute path of letters, digits and / . _ -"):format(name)) end
  end
  if not user:find("^[%l_][%l%d_-]*$") then report.usage("--user is a user's name") end
  local program = ctx.host.realpath("/proc/self/exe") or "/usr/local/bin/sallyport"
  local fill = { HOME = data, USER = user, PUBLIC = public, PROGRAM = program,
    FLAG = opt.public and " --public " .. public or "" }
  ctx.out((SYSTEMD:gsub("%%(%u+)%%", fill)))
  if program:find("^/home/") or program:find("^/root/") then
    ctx.note(("note: the unit names %s, which ProtectHome hides: install it, e.g. in /usr/local/bin, and call it from there"):format(program))
  end
  return 0
end

return {
  { words = "service print", args = "systemd", min = 1, max = 1, homeless = true, summary = "a unit for systemd",
    options = {
      { name = "data", arg = "DIR", help = "the data directory of the service; " .. DATA .. " unless named" },
      { name = "public", arg = "DIR", help = "the clients' folder; the data directory's name and -public, unless named" },
      { name = "user", arg = "USER", help = "who runs it; " .. USER .. " unless named" },
    },
    help = [[
Prints a unit that runs the proxy as a user of its own, with the data directory and the clients' folder made at the
start, a folder in /var/log, room for locked memory, no core dumps, and nothing else of the machine to write. Its first
lines say how to install it; `sallyport help operating` says what comes after.

examples:
  sallyport service print systemd > /etc/systemd/system/sallyport.service
  sallyport service print systemd --user gate --data /srv/gate
]], run = run },
}

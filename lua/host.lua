--- The machine, as workers and commands see it: host.core (proxy.c), and for commands what cli.machine makes of system calls.
local M = require "host.core"
if M.become then      -- workers do not have it
  setmetatable(M, { __index = function(_, name) return require("cli.machine")[name] end })
end
return M
